#include "forward/norm.h"

#include <algorithm>
#include <cmath>

namespace moecompress {

void rms_norm(const Kernels& kernels, const float* x, const float* weight, int64_t count, float epsilon, float* out) {
    const float mean = kernels.dot(x, x, count) / static_cast<float>(count);
    const float scale = 1.0f / std::sqrt(mean + epsilon);
    for (int64_t i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * scale);
}

void add(float* x, const float* y, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

void multiply_by(float* x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

void clip(float* x, int64_t count, float bound) {
    for (int64_t i = 0; i < count; ++i) x[i] = std::min(std::max(x[i], -bound), bound);
}

float sigmoid(float x) {
    const float small = exp_fixed(-std::fabs(x));
    return x >= 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
}

}  // namespace moecompress
