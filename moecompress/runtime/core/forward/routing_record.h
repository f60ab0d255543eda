// What a forward pass chose, kept for studies: experts and weights of every token and layer, and what the router of each
// layer would have chosen one layer earlier.
#pragma once

#include <cstdint>
#include <vector>

#include "forward/scratch.h"

namespace moecompress {

class RoutingRecord {
public:
    static constexpr uint16_t none = 0xffff;

    // Layers count layers with routed experts; `guesses` experts are kept of a router that looks ahead.
    RoutingRecord(int layers, int64_t top_k, int64_t guesses) : layers_(layers), top_k_(top_k), guesses_(guesses) {}

    // Forgets everything and makes room for a forward pass of so many tokens.
    void start(int64_t tokens);
    // A chunk's routing as it lies in the working memory; its first token is number `first` of the pass.
    void chose(int layer, int64_t first, int64_t tokens, const Scratch& scratch);
    // Logits [tokens][experts] of the router of `layer` on the input of the layer before.
    void guessed(int layer, int64_t first, int64_t tokens, int experts, const float* logits);

    int64_t tokens() const { return tokens_; }
    int layers() const { return layers_; }
    int64_t top_k() const { return top_k_; }
    int64_t guesses() const { return guesses_; }
    const std::vector<uint16_t>& chosen() const { return chosen_; }  // [token][layer][rank]
    const std::vector<float>& weight() const { return weight_; }     // [token][layer][rank]
    const std::vector<uint16_t>& guess() const { return guess_; }    // [token][layer][guesses], best first; or `none`

private:
    int64_t place(int64_t token, int layer) const { return token * layers_ + layer; }

    int layers_;
    int64_t top_k_, guesses_, tokens_ = 0;
    std::vector<uint16_t> chosen_, guess_;
    std::vector<float> weight_;
};

}  // namespace moecompress
