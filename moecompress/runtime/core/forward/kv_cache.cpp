#include "forward/kv_cache.h"

#include <cstring>
#include <limits>

#include "store/checked.h"

namespace moecompress {

namespace {

// The same operations whatever the registers, so wider copies of a loop give the same bits.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_ADDRESS__)
#define FOR_EVERY_REGISTER __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_REGISTER
#endif

constexpr int32_t infinity_bits = 0x7f800000;

int64_t element_bytes(KeyValueType type) { return type == KeyValueType::int16 ? 2 : 1; }

struct Planes {
    uint8_t* integers;
    float* scales;
};

// Both arrays in `layout`: the one place that knows how large they are.
Planes place(Layout& layout, const ModelConfig& config, int64_t context, KeyValueType type) {
    const uint64_t vectors =
        checked_multiply(2 * config.layers.size() * uint64_t(config.key_value_heads), uint64_t(context));
    const uint64_t vector_bytes = uint64_t(config.head_size * element_bytes(type));
    uint8_t* const integers = layout.take<uint8_t>(checked_multiply(vectors, vector_bytes));
    return {integers, layout.take<float>(vectors)};
}

// Bits of the largest magnitude; those of infinities and NaNs are the largest of all.
FOR_EVERY_REGISTER int32_t largest_bits(const float* vector, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        int32_t bits;
        std::memcpy(&bits, vector + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

// round_half_even(vector / scale) within the limit: a scale that is subnormal could lead beyond it.
template <class Integer>
inline void divide(const float* vector, float scale, int64_t count, Integer* out) {
    constexpr float limit = std::numeric_limits<Integer>::max();
    constexpr float shift = 0x1.8p23f;  // adding it rounds to an integer
    for (int64_t i = 0; i < count; ++i) {
        const float ratio = (vector[i] / scale + shift) - shift;
        const float low = ratio < limit ? ratio : limit;
        out[i] = static_cast<Integer>(static_cast<int32_t>(low > -limit ? low : -limit));
    }
}

FOR_EVERY_REGISTER void divide_16(const float* vector, float scale, int64_t count, int16_t* out) {
    divide(vector, scale, count, out);
}

FOR_EVERY_REGISTER void divide_8(const float* vector, float scale, int64_t count, int8_t* out) {
    divide(vector, scale, count, out);
}

}  // namespace

uint64_t KeyValueCache::bytes(const ModelConfig& config, int64_t context, KeyValueType type) {
    Layout layout(nullptr);
    place(layout, config, context, type);
    return layout.used();
}

KeyValueCache::KeyValueCache(const ModelConfig& config, int64_t context, KeyValueType type)
    : context_(context),
      heads_(config.key_value_heads),
      head_size_(config.head_size),
      type_(type),
      memory_(bytes(config, context, type)) {
    Layout layout(memory_.data());
    const Planes planes = place(layout, config, context, type);
    integers_ = planes.integers;
    scales_ = planes.scales;
}

HeadRows KeyValueCache::rows(int64_t plane, int64_t head) const {
    const IntegerRows all{integers_, type_ == KeyValueType::int8, head_size_};
    return {all.after(first(plane, head)), scales_ + first(plane, head)};
}

void KeyValueCache::store_key(int64_t layer, int64_t head, int64_t position, const float* vector) {
    store(first(2 * layer, head) + position, vector);
}

void KeyValueCache::store_value(int64_t layer, int64_t head, int64_t position, const float* vector) {
    store(first(2 * layer + 1, head) + position, vector);
}

void KeyValueCache::store(int64_t at, const float* vector) {
    const int32_t bits = largest_bits(vector, head_size_);
    float largest;
    std::memcpy(&largest, &bits, sizeof largest);
    const bool finite = bits < infinity_bits;
    const float scale = largest / (type_ == KeyValueType::int16 ? 32767.0f : 127.0f);
    uint8_t* const integers = integers_ + at * head_size_ * element_bytes(type_);
    scales_[at] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
    if (!finite || scale == 0.0f)
        std::memset(integers, 0, size_t(head_size_ * element_bytes(type_)));
    else if (type_ == KeyValueType::int16)
        divide_16(vector, scale, head_size_, reinterpret_cast<int16_t*>(integers));
    else
        divide_8(vector, scale, head_size_, reinterpret_cast<int8_t*>(integers));
}

}  // namespace moecompress
