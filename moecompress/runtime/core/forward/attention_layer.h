// The attention half of a decoder layer, for one chunk of tokens.
#pragma once

#include <cstdint>

#include "forward/config.h"
#include "forward/kv_cache.h"
#include "forward/products.h"
#include "forward/scratch.h"
#include "forward/trunk.h"

namespace moecompress {

// scratch.block_out = attention(scratch.normed), whose vectors are quantised already. Writes keys and values of
// positions [start, start + tokens) of `layer` to the cache.
void attention_layer(const Machine& machine, const ModelConfig& config, const LayerWeights& weights,
                     KeyValueCache& cache, int64_t layer, int64_t start, int64_t tokens, Scratch& scratch);

}  // namespace moecompress
