// Causal attention over the key-value cache, one pass, with softmax kept as a running maximum and sum.
#pragma once

#include <cstdint>

#include "forward/kv_cache.h"
#include "kernels/kernels.h"

namespace moecompress {

constexpr int64_t largest_head = 256;

// Work of consecutive queries [first, last) of a chunk, for the query heads that share one key-value head.
// Position blocks start at multiples of 32 whatever the chunk, so a query's result depends on its position alone.
struct AttentionTask {
    HeadRows keys, values;
    const float* queries;    // row of query 0 of the chunk, at this group's first head
    float* output;           // likewise
    float* maximum;          // [query][group]: state, any content
    float* sum;              // [query][group]: state, any content
    int64_t row_stride;      // floats between rows of queries and output
    int64_t group;           // query heads per key-value head
    int64_t head_size;
    int64_t start;  // position of query 0
    int64_t first, last;
    int64_t window;  // 0: unlimited
    float scale;
};

void attend(const Kernels& kernels, const AttentionTask& task);

}  // namespace moecompress
