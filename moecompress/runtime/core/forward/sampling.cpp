#include "forward/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "kernels/kernels.h"

namespace moecompress {

Sampler::Sampler(int64_t vocabulary) : vocabulary_(vocabulary), memory_(bytes(vocabulary)) {
    Layout layout(memory_.data());
    logits_ = layout.take<float>(uint64_t(vocabulary));
    weights_ = layout.take<float>(uint64_t(vocabulary));
    tokens_ = layout.take<int32_t>(uint64_t(vocabulary));
}

uint64_t Sampler::bytes(int64_t vocabulary) {
    Layout layout(nullptr);
    for (int part = 0; part < 3; ++part) layout.take<float>(uint64_t(vocabulary));
    return layout.used();
}

int32_t Sampler::next(const SamplingOptions& options, double uniform) {
    if (!(options.temperature >= 0.0 && options.top_p > 0.0 && options.top_k >= 0 && uniform >= 0.0 && uniform <= 1.0))
        throw std::invalid_argument(
            "A token is drawn with a temperature and a top_k of at least 0, a top_p above 0 and a number from 0 to 1.");
    if (!std::all_of(logits_, logits_ + vocabulary_, [](float logit) { return std::isfinite(logit); }))
        throw std::invalid_argument(
            "The model's logits are not finite numbers, so no token can be chosen. Verify the artifact.");
    if (options.temperature == 0.0) return largest();
    int64_t count = likeliest(options.top_k);
    weigh(count, options.temperature);
    if (options.top_p < 1.0) count = nucleus(count, options.top_p);
    return draw(count, uniform);
}

int32_t Sampler::largest() const {
    return int32_t(std::max_element(logits_, logits_ + vocabulary_) - logits_);
}

// The candidates: the top_k tokens of the largest logits, all for 0, by ascending token.
int64_t Sampler::likeliest(int64_t top_k) {
    std::iota(tokens_, tokens_ + vocabulary_, 0);
    if (top_k <= 0 || top_k >= vocabulary_) return vocabulary_;
    const auto before = [this](int32_t a, int32_t b) {
        return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    std::nth_element(tokens_, tokens_ + top_k, tokens_ + vocabulary_, before);
    std::sort(tokens_, tokens_ + top_k);
    return top_k;
}

// exp((logit - largest) / temperature) of each candidate.
void Sampler::weigh(int64_t count, double temperature) {
    double most = logits_[tokens_[0]];
    for (int64_t i = 1; i < count; ++i) most = std::max(most, double(logits_[tokens_[i]]));
    for (int64_t i = 0; i < count; ++i)
        weights_[tokens_[i]] = exp_fixed(float((double(logits_[tokens_[i]]) - most) / temperature));
}

// Keeps the likeliest candidates whose probabilities reach top_p, likeliest first. Those below (1 - top_p) / count of
// all weight cannot be among them, so only the others are sorted.
int64_t Sampler::nucleus(int64_t count, double top_p) {
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += double(weights_[tokens_[i]]);
    const double least = (1.0 - top_p) / double(count) * total;
    int32_t* const end =
        std::remove_if(tokens_, tokens_ + count, [&](int32_t token) { return double(weights_[token]) < least; });
    std::sort(tokens_, end, [this](int32_t a, int32_t b) {
        return weights_[a] != weights_[b] ? weights_[a] > weights_[b] : a < b;
    });
    double reached = 0.0;
    for (int64_t i = 0; i < end - tokens_; ++i) {
        reached += double(weights_[tokens_[i]]);
        if (reached >= top_p * total) return i + 1;
    }
    return end - tokens_;
}

int32_t Sampler::draw(int64_t count, double uniform) const {
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += double(weights_[tokens_[i]]);
    double reached = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        reached += double(weights_[tokens_[i]]);
        if (reached > uniform * total) return tokens_[i];
    }
    return tokens_[count - 1];
}

}  // namespace moecompress
