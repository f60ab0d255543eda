#include "forward/attention.h"

#include <algorithm>

#include "forward/norm.h"

namespace moecompress {

namespace {

constexpr int64_t block_positions = 32;
constexpr int64_t most_lines = 16;  // of the scores of a block

// Query heads that see the same positions, `stride` floats apart: their vectors, output and running softmax.
struct Readers {
    const float* queries;
    float* output;
    float* maximum;
    float* sum;
    int64_t stride;
    int64_t count;
};

struct Positions {
    int64_t from, to;
};

// Softmax numerators of one line of scores, times the values' scales; the output follows a new maximum.
void weigh(const Kernels& kernels, const AttentionTask& task, const Positions& seen, float* scores, float* output,
           float& maximum, float& sum) {
    const float* const key_scales = task.keys.scales + seen.from;
    const float* const value_scales = task.values.scales + seen.from;
    const int64_t count = seen.to - seen.from;
    for (int64_t i = 0; i < count; ++i) scores[i] *= key_scales[i] * task.scale;
    const float highest = *std::max_element(scores, scores + count);
    if (sum == 0.0f) {
        maximum = highest;
    } else if (highest > maximum) {
        const float factor = exp_fixed(maximum - highest);
        maximum = highest;
        sum *= factor;
        multiply_by(output, factor, task.head_size);
    }
    kernels.exp_shifted(scores, maximum, count);
    for (int64_t i = 0; i < count; ++i) sum += scores[i];
    for (int64_t i = 0; i < count; ++i) scores[i] *= value_scales[i];
}

// Takes positions of one block into the running softmax of at most `most_lines` readers.
void absorb(const Kernels& kernels, const AttentionTask& task, const Positions& seen, const Readers& readers) {
    alignas(64) float scores[most_lines * block_positions];
    const Lines<float> lines{scores, block_positions, readers.count};
    const int64_t length = seen.to - seen.from;
    kernels.row_dots(task.keys.integers.after(seen.from), length, {readers.queries, readers.stride, readers.count},
                     lines);
    for (int64_t i = 0; i < readers.count; ++i)
        weigh(kernels, task, seen, scores + i * block_positions, readers.output + i * readers.stride,
              readers.maximum[i], readers.sum[i]);
    kernels.add_rows(task.values.integers.after(seen.from), length, {scores, block_positions, readers.count},
                     {readers.output, readers.stride, readers.count});
}

// All readers of `query`, or with one head to a group those of `queries` consecutive queries.
void absorb_all(const Kernels& kernels, const AttentionTask& task, const Positions& seen, int64_t query,
                int64_t queries) {
    const int64_t stride = task.group == 1 ? task.row_stride : task.head_size;
    const int64_t total = queries * task.group;
    for (int64_t done = 0; done < total; done += most_lines) {
        const int64_t place = query * task.row_stride + done * stride, state = query * task.group + done;
        absorb(kernels, task, seen,
               {task.queries + place, task.output + place, task.maximum + state, task.sum + state, stride,
                std::min(most_lines, total - done)});
    }
}

int64_t first_position(const AttentionTask& task, int64_t query) {
    const int64_t position = task.start + query;
    return task.window == 0 ? 0 : std::max<int64_t>(0, position + 1 - task.window);
}

Positions seen_in_block(const AttentionTask& task, int64_t query, int64_t begin, int64_t end) {
    return {std::max(begin, first_position(task, query)), std::min(end, task.start + query + 1)};
}

void attend_block(const Kernels& kernels, const AttentionTask& task, int64_t begin, int64_t end) {
    for (int64_t query = task.first, next; query < task.last; query = next) {
        const Positions seen = seen_in_block(task, query, begin, end);
        for (next = query + 1; task.group == 1 && next < task.last; ++next) {
            const Positions others = seen_in_block(task, next, begin, end);
            if (others.from != seen.from || others.to != seen.to) break;
        }
        if (seen.from < seen.to) absorb_all(kernels, task, seen, query, next - query);
    }
}

}  // namespace

void attend(const Kernels& kernels, const AttentionTask& task) {
    for (int64_t query = task.first; query < task.last; ++query) {
        std::fill_n(task.sum + query * task.group, task.group, 0.0f);
        std::fill_n(task.output + query * task.row_stride, task.group * task.head_size, 0.0f);
    }
    const int64_t stop = task.start + task.last;
    const int64_t start = first_position(task, task.first) / block_positions * block_positions;
    for (int64_t begin = start; begin < stop; begin += block_positions)
        attend_block(kernels, task, begin, std::min(begin + block_positions, stop));
    for (int64_t query = task.first; query < task.last; ++query)
        for (int64_t head = 0; head < task.group; ++head)
            multiply_by(task.output + query * task.row_stride + head * task.head_size,
                        1.0f / task.sum[query * task.group + head], task.head_size);
}

}  // namespace moecompress
