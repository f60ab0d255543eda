// Keys and values of past positions: integers of one head's vector under a scale of its own.
//
// With 16 bits an element the same bytes as float16 but for the scale, sixteen times closer to float32, and no overflow
// to saturate at. With 8 bits half of that, and a loss that shows.
#pragma once

#include <cstdint>

#include "forward/config.h"
#include "kernels/kernels.h"
#include "store/region.h"

namespace moecompress {

enum class KeyValueType { int16, int8 };

// Vectors of one head of one layer: element i of position p is row p's integer i times scales[p].
struct HeadRows {
    IntegerRows integers;
    float* scales;
};

class KeyValueCache {
public:
    static uint64_t bytes(const ModelConfig& config, int64_t context, KeyValueType type);

    KeyValueCache(const ModelConfig& config, int64_t context, KeyValueType type);

    int64_t context() const { return context_; }
    HeadRows keys(int64_t layer, int64_t head) const { return rows(2 * layer, head); }
    HeadRows values(int64_t layer, int64_t head) const { return rows(2 * layer + 1, head); }
    // Write one vector. One with an infinity or NaN gets scale NaN, so that everything it reaches becomes NaN.
    void store_key(int64_t layer, int64_t head, int64_t position, const float* vector);
    void store_value(int64_t layer, int64_t head, int64_t position, const float* vector);

private:
    int64_t first(int64_t plane, int64_t head) const { return (plane * heads_ + head) * context_; }
    HeadRows rows(int64_t plane, int64_t head) const;
    void store(int64_t at, const float* vector);

    int64_t context_, heads_, head_size_;
    KeyValueType type_;
    Region memory_;
    uint8_t* integers_ = nullptr;  // [layer][key, value][head][position][element]
    float* scales_ = nullptr;      // [layer][key, value][head][position]
};

}  // namespace moecompress
