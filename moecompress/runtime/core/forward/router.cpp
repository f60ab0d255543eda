#include "forward/router.h"

#include <algorithm>

namespace moecompress {

namespace {

void softmax(const Kernels& kernels, float* values, int64_t count) {
    const float highest = *std::max_element(values, values + count);
    float sum = 0.0f;
    kernels.exp_shifted(values, highest, count);
    for (int64_t i = 0; i < count; ++i) sum += values[i];
    for (int64_t i = 0; i < count; ++i) values[i] /= sum;
}

bool taken(const int32_t* chosen, int64_t count, int64_t expert) {
    return std::find(chosen, chosen + count, static_cast<int32_t>(expert)) != chosen + count;
}

}  // namespace

void route(const Kernels& kernels, float* logits, int64_t experts, int64_t top_k, bool renormalise, int32_t* chosen,
           float* weights) {
    softmax(kernels, logits, experts);
    float sum = 0.0f;
    for (int64_t rank = 0; rank < top_k; ++rank) {
        int64_t best = -1;
        for (int64_t expert = 0; expert < experts; ++expert) {
            const bool better = best < 0 || logits[expert] > logits[best];
            if (better && !taken(chosen, rank, expert)) best = expert;
        }
        chosen[rank] = static_cast<int32_t>(best);
        weights[rank] = logits[best];
        sum += weights[rank];
    }
    if (!renormalise) return;
    for (int64_t rank = 0; rank < top_k; ++rank) weights[rank] /= sum;
}

}  // namespace moecompress
