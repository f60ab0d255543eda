// Keys and values of past positions, 16 bits an element: integers of one head's vector under a scale of its own.
//
// The same bytes as float16 but for the scale, sixteen times closer to float32, and no overflow to saturate at.
#pragma once

#include <cstdint>

#include "forward/config.h"
#include "store/region.h"

namespace moecompress {

// Vectors of one head of one layer: element i of position p is integers[p * head_size + i] * scales[p].
struct HeadRows {
    int16_t* integers;
    float* scales;
};

class KeyValueCache {
public:
    static uint64_t bytes(const ModelConfig& config, int64_t context);

    KeyValueCache(const ModelConfig& config, int64_t context);

    int64_t context() const { return context_; }
    HeadRows keys(int64_t layer, int64_t head) const { return rows(2 * layer, head); }
    HeadRows values(int64_t layer, int64_t head) const { return rows(2 * layer + 1, head); }

private:
    HeadRows rows(int64_t plane, int64_t head) const;

    int64_t context_, heads_, head_size_;
    Region memory_;
    int16_t* integers_ = nullptr;  // [layer][key, value][head][position][element]
    float* scales_ = nullptr;      // [layer][key, value][head][position]
};

// Writes one vector. One with an infinity or NaN is stored with scale NaN, so that everything it reaches becomes NaN.
void store_vector(const float* vector, int64_t size, int64_t position, const HeadRows& rows);

}  // namespace moecompress
