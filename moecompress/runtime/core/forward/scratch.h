// Working memory of the forward pass: one region, laid out once for the largest chunk.
#pragma once

#include <cstdint>

#include "forward/config.h"
#include "kernels/kernels.h"
#include "store/region.h"

namespace moecompress {

// Sizes that the working memory depends on.
struct ScratchSizes {
    int64_t chunk = 0;    // tokens worked on at once
    int64_t width = 0;    // widest feed-forward of any kind
    int64_t experts = 0;  // most experts in a layer
};

// A float vector per token and, beside it, its quantised form.
struct Vectors {
    float* values = nullptr;
    uint8_t* workspace = nullptr;

    // The first `tokens` vectors as kernels see them.
    Activations activations(int64_t tokens, int64_t columns) const {
        return Activations::in(workspace, tokens, columns, values);
    }
};

struct Scratch {
    float* residual = nullptr;  // [chunk][hidden]
    Vectors normed;             // [chunk][hidden]
    float* block_out = nullptr;  // [chunk][hidden]
    float *cosine = nullptr, *sine = nullptr;  // [chunk][rotating pairs]
    // During attention:
    float *q = nullptr, *k = nullptr, *v = nullptr;       // [chunk][heads * head_size]
    Vectors attended;                                      // [chunk][heads * head_size]
    float *maximum = nullptr, *sum = nullptr;              // [chunk][heads]
    // During the feed-forward, sharing the same bytes:
    float* router_logits = nullptr;                        // [chunk][experts]
    float* chosen_weight = nullptr;                        // [chunk][top_k]
    int32_t* chosen = nullptr;                             // [chunk][top_k]
    float* shared_scale = nullptr;                         // [chunk]
    Vectors gathered;                                      // [chunk][hidden]: inputs of one expert
    Vectors gate;                                          // [places][width]: then silu(gate) * up
    float* up = nullptr;                                   // [places][width]
    float* expert_out = nullptr;                           // [places][hidden]

    // places = max(chunk, top_k + 1): a row per token, or when decoding a row per expert and one for the shared one.
    static int64_t places(const ModelConfig& config, const ScratchSizes& sizes);
    // Points everything into base; with a null base only the result matters: the bytes needed.
    uint64_t place(uint8_t* base, const ModelConfig& config, const ScratchSizes& sizes);
};

}  // namespace moecompress
