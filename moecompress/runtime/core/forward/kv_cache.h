// Keys and values of past positions as float16: [layer][key or value][head][position][element].
#pragma once

#include <cstdint>

#include "forward/config.h"
#include "store/checked.h"
#include "store/region.h"

namespace moecompress {

class KeyValueCache {
public:
    static uint64_t bytes(const ModelConfig& config, int64_t context) {
        const uint64_t per_position = checked_multiply(4 * config.layers.size(), uint64_t(config.key_value_size()));
        return checked_multiply(per_position, uint64_t(context));
    }

    KeyValueCache(const ModelConfig& config, int64_t context)
        : context_(context), heads_(config.key_value_heads), head_size_(config.head_size),
          memory_(bytes(config, context)) {}

    int64_t context() const { return context_; }
    // Rows of one head, [context][head_size].
    uint16_t* keys(int64_t layer, int64_t head) const { return rows(2 * layer, head); }
    uint16_t* values(int64_t layer, int64_t head) const { return rows(2 * layer + 1, head); }

private:
    uint16_t* rows(int64_t plane, int64_t head) const {
        return reinterpret_cast<uint16_t*>(memory_.data()) + (plane * heads_ + head) * context_ * head_size_;
    }

    int64_t context_, heads_, head_size_;
    Region memory_;
};

}  // namespace moecompress
