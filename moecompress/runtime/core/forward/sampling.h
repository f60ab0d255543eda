// The next token from its logits: greedy, or drawn after temperature, top-k and top-p (Holtzman et al. 2019).
//
// The order of filters is that of transformers: temperature, top-k, top-p. Among equal logits the lower token comes
// first. The plain statement of it is testing/sampling_reference.py.
#pragma once

#include <cstdint>

#include "store/region.h"

namespace moecompress {

struct SamplingOptions {
    double temperature = 0.0;  // 0: greedy
    double top_p = 1.0;        // 1: all tokens
    int64_t top_k = 0;         // 0: all tokens
};

// Holds the logits of one vocabulary and the working memory to choose from them.
class Sampler {
public:
    explicit Sampler(int64_t vocabulary);
    static uint64_t bytes(int64_t vocabulary);

    float* logits() { return logits_; }  // [vocabulary], filled by the caller
    // A token. Throws std::invalid_argument when a logit is not a finite number or an option is out of range.
    int32_t next(const SamplingOptions& options, double uniform);

private:
    int32_t largest() const;
    int64_t likeliest(int64_t top_k);
    void weigh(int64_t count, double temperature);
    int64_t nucleus(int64_t count, double top_p);
    int32_t draw(int64_t count, double uniform) const;

    int64_t vocabulary_;
    Region memory_;
    float* logits_ = nullptr;
    float* weights_ = nullptr;   // by token
    int32_t* tokens_ = nullptr;  // candidates
};

}  // namespace moecompress
