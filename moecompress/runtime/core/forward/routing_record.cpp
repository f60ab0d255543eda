#include "forward/routing_record.h"

#include <algorithm>

#include "predict/predictor.h"

namespace moecompress {

void RoutingRecord::start(int64_t tokens) {
    tokens_ = tokens;
    chosen_.assign(size_t(place(tokens, 0) * top_k_), none);
    weight_.assign(size_t(place(tokens, 0) * top_k_), 0.0f);
    guess_.assign(size_t(place(tokens, 0) * guesses_), none);
}

void RoutingRecord::chose(int layer, int64_t first, int64_t tokens, const Scratch& scratch) {
    for (int64_t token = 0; token < tokens; ++token) {
        const int64_t from = token * top_k_, to = place(first + token, layer) * top_k_;
        std::copy_n(scratch.chosen + from, top_k_, chosen_.begin() + to);
        std::copy_n(scratch.chosen_weight + from, top_k_, weight_.begin() + to);
    }
}

void RoutingRecord::guessed(int layer, int64_t first, int64_t tokens, int experts, const float* logits) {
    std::vector<int> named;
    for (int64_t token = 0; token < tokens; ++token) {
        likeliest(logits + token * experts, experts, int(guesses_), named);
        std::copy(named.begin(), named.end(), guess_.begin() + place(first + token, layer) * guesses_);
    }
}

}  // namespace moecompress
