#include "forward/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "store/checked.h"

namespace moecompress {

namespace {

constexpr float largest_integer = 32767.0f;

struct Planes {
    int16_t* integers;
    float* scales;
};

// Both arrays in `layout`: the one place that knows how large they are.
Planes place(Layout& layout, const ModelConfig& config, int64_t context) {
    const uint64_t vectors =
        checked_multiply(2 * config.layers.size() * uint64_t(config.key_value_heads), uint64_t(context));
    int16_t* const integers = layout.take<int16_t>(checked_multiply(vectors, uint64_t(config.head_size)));
    return {integers, layout.take<float>(vectors)};
}

}  // namespace

uint64_t KeyValueCache::bytes(const ModelConfig& config, int64_t context) {
    Layout layout(nullptr);
    place(layout, config, context);
    return layout.used();
}

KeyValueCache::KeyValueCache(const ModelConfig& config, int64_t context)
    : context_(context), heads_(config.key_value_heads), head_size_(config.head_size), memory_(bytes(config, context)) {
    Layout layout(memory_.data());
    const Planes planes = place(layout, config, context);
    integers_ = planes.integers;
    scales_ = planes.scales;
}

HeadRows KeyValueCache::rows(int64_t plane, int64_t head) const {
    const int64_t vector = (plane * heads_ + head) * context_;
    return {integers_ + vector * head_size_, scales_ + vector};
}

void store_vector(const float* vector, int64_t size, int64_t position, const HeadRows& rows) {
    float largest = 0.0f;
    bool finite = true;
    for (int64_t i = 0; i < size; ++i) {
        largest = std::max(largest, std::fabs(vector[i]));
        finite = finite && std::isfinite(vector[i]);
    }
    const float scale = largest / largest_integer;
    rows.scales[position] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
    int16_t* const integers = rows.integers + position * size;
    // A vector so small that its scale is subnormal could round up beyond the largest integer.
    for (int64_t i = 0; i < size; ++i) {
        const float ratio = finite && scale > 0.0f ? std::nearbyint(vector[i] / scale) : 0.0f;
        integers[i] = static_cast<int16_t>(std::clamp(ratio, -largest_integer, largest_integer));
    }
}

}  // namespace moecompress
