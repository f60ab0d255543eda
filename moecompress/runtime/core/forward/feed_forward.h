// A dense feed-forward: of a layer without experts, a shared expert, or one routed expert.
#pragma once

#include "forward/products.h"
#include "forward/scratch.h"
#include "store/record.h"

namespace moecompress {

// out[token] = down (silu(gate x) * (up x)), rows of down.rows floats.
void feed_forward(const Machine& machine, const FeedForward& weights, const Activations& input, const Scratch& scratch,
                  float* out);

}  // namespace moecompress
