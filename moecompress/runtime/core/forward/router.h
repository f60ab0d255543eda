// Which experts a token goes to, and with which weight.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace moecompress {

// Softmax over all `experts` logits (overwritten by the probabilities), then the top_k largest, the lower index first
// among equals; weights are divided by their sum when `renormalise`.
void route(const Kernels& kernels, float* logits, int64_t experts, int64_t top_k, bool renormalise, int32_t* chosen,
           float* weights);

}  // namespace moecompress
