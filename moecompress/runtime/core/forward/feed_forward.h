// The feed-forward half of a decoder layer: dense, shared and routed experts.
#pragma once

#include <cstdint>
#include <vector>

#include "forward/config.h"
#include "forward/products.h"
#include "forward/scratch.h"
#include "forward/trunk.h"
#include "store/expert_store.h"

namespace moecompress {

// out[token] = down (silu(gate x) * (up x)), rows of down.rows floats.
void feed_forward(const Machine& machine, const FeedForward& weights, const Activations& input, const Scratch& scratch,
                  float* out);

// Routed experts, fetched from the store, plus the shared one. The weighted sum runs over experts by ascending index
// whatever was in memory and whatever arrived first, so results do not depend on the cache.
class SparseBlock {
public:
    SparseBlock(const Machine& machine, const ModelConfig& config, ExpertStore& store, Scratch& scratch,
                const ScratchSizes& sizes);

    // scratch.block_out = experts(scratch.normed), whose vectors are quantised already. `table` counts sparse layers.
    void run(const LayerWeights& weights, int table, int64_t tokens);
    // The same without shared experts, by the routing in scratch.chosen and scratch.chosen_weight: no expert twice for
    // a token; an index equal to the layer's number of experts means none.
    void run_routed(int table, int64_t tokens);

private:
    // One feed-forward for a single token, in row `row` of the working memory.
    struct Place {
        FeedForward weights;
        int64_t row;
    };

    void route_tokens(const LayerWeights& weights, const Activations& input);
    void add_experts(const LayerWeights& weights, int table, const Activations& input);
    void decode(const LayerWeights& weights, int table, const Activations& input);
    void decode_misses(std::vector<int64_t> pending, const Activations& input);
    void compute_places(const std::vector<Place>& places, const Activations& input);
    Activations place_activations(const Place& place) const;

    void prefill(const LayerWeights& weights, int table, const Activations& input);
    void group_tokens(int table, int64_t tokens);
    void prefill_expert(int expert, const Activations& input);
    Activations gather(const Activations& input, const int64_t* slots, int64_t count) const;

    // Rows of `shared_out`, [tokens][hidden], scaled by the shared router, are added to the output.
    void add_shared(const LayerWeights& weights, const Activations& input, const float* shared_out);

    const Machine& machine_;
    const ModelConfig& config_;
    ExpertStore& store_;
    Scratch& scratch_;
    int64_t width_;                 // floats between rows of the working memory
    std::vector<int> wanted_;       // experts of this chunk, ascending
    std::vector<uint8_t> lasting_;  // per expert: the chunk's last tokens use it
    std::vector<int64_t> first_;    // per expert: where its part of slots_ begins
    std::vector<int64_t> slots_;    // token * top_k + rank, grouped by expert
};

}  // namespace moecompress
