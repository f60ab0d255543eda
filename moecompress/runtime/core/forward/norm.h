// Element-wise pieces of the forward pass, each on one vector.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace moecompress {

// out = weight * (x / sqrt(mean(x^2) + epsilon)); out may be x.
void rms_norm(const Kernels& kernels, const float* x, const float* weight, int64_t count, float epsilon, float* out);

// x += y
void add(float* x, const float* y, int64_t count);

// x *= factor
void multiply_by(float* x, float factor, int64_t count);

// Limits every element to [-bound, bound].
void clip(float* x, int64_t count, float bound);

// 1 / (1 + exp(-x))
float sigmoid(float x);

}  // namespace moecompress
