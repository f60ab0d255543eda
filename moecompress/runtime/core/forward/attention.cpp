#include "forward/attention.h"

#include <algorithm>

#include "forward/norm.h"

namespace moecompress {

namespace {

constexpr int64_t block_positions = 32;

// Float copies of the cache's integers for one block of positions, and their scales.
struct Block {
    alignas(64) float keys[block_positions * largest_head];
    alignas(64) float values[block_positions * largest_head];
    const float* key_scales;
    const float* value_scales;
};

// Exact conversions only, so wider copies of the loop give the same bits.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void widen(const int16_t* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// Takes positions [from, to) of a block into the running softmax of one query head.
void absorb(const Kernels& kernels, const AttentionTask& task, const Block& block, int64_t query, int64_t head,
            int64_t from, int64_t to) {
    const int64_t size = task.head_size;
    const int64_t place = query * task.row_stride + head * size;
    float& maximum = task.maximum[query * task.group + head];
    float& sum = task.sum[query * task.group + head];
    float* const output = task.output + place;
    float weights[block_positions];
    for (int64_t i = from; i < to; ++i) {
        const float score = kernels.dot(task.queries + place, block.keys + i * size, size);
        weights[i] = score * (block.key_scales[i] * task.scale);
    }
    const float highest = *std::max_element(weights + from, weights + to);
    if (sum == 0.0f) {
        maximum = highest;
    } else if (highest > maximum) {
        const float factor = exp_fixed(maximum - highest);
        maximum = highest;
        sum *= factor;
        multiply_by(output, factor, size);
    }
    kernels.exp_shifted(weights + from, maximum, to - from);
    for (int64_t i = from; i < to; ++i) {
        sum += weights[i];
        kernels.add_scaled(output, block.values + i * size, weights[i] * block.value_scales[i], size);
    }
}

int64_t first_position(const AttentionTask& task, int64_t query) {
    const int64_t position = task.start + query;
    return task.window == 0 ? 0 : std::max<int64_t>(0, position + 1 - task.window);
}

void attend_block(const Kernels& kernels, const AttentionTask& task, const Block& block, int64_t begin, int64_t end) {
    for (int64_t query = task.first; query < task.last; ++query) {
        const int64_t from = std::max(begin, first_position(task, query));
        const int64_t to = std::min(end, task.start + query + 1);
        if (from >= to) continue;
        for (int64_t head = 0; head < task.group; ++head)
            absorb(kernels, task, block, query, head, from - begin, to - begin);
    }
}

}  // namespace

void attend(const Kernels& kernels, const AttentionTask& task) {
    for (int64_t query = task.first; query < task.last; ++query) {
        std::fill_n(task.sum + query * task.group, task.group, 0.0f);
        std::fill_n(task.output + query * task.row_stride, task.group * task.head_size, 0.0f);
    }
    Block block;
    const int64_t stop = task.start + task.last;
    const int64_t start = first_position(task, task.first) / block_positions * block_positions;
    for (int64_t begin = start; begin < stop; begin += block_positions) {
        const int64_t end = std::min(begin + block_positions, stop);
        const int64_t first = begin * task.head_size, count = (end - begin) * task.head_size;
        widen(task.keys.integers + first, block.keys, count);
        widen(task.values.integers + first, block.values, count);
        block.key_scales = task.keys.scales + begin;
        block.value_scales = task.values.scales + begin;
        attend_block(kernels, task, block, begin, end);
    }
    for (int64_t query = task.first; query < task.last; ++query)
        for (int64_t head = 0; head < task.group; ++head)
            multiply_by(task.output + query * task.row_stride + head * task.head_size,
                        1.0f / task.sum[query * task.group + head], task.head_size);
}

}  // namespace moecompress
