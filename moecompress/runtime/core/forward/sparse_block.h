// The routed experts of a decoder layer, fetched from the store, plus the shared one.
#pragma once

#include <cstdint>
#include <vector>

#include "forward/config.h"
#include "forward/feed_forward.h"
#include "forward/lookahead.h"
#include "forward/products.h"
#include "forward/scratch.h"
#include "forward/trunk.h"
#include "store/expert_store.h"

namespace moecompress {

// The weighted sum runs over experts by ascending index whatever was in memory and whatever arrived first, so results do
// not depend on the cache.
class SparseBlock {
public:
    SparseBlock(const Machine& machine, const ModelConfig& config, ExpertStore& store, Scratch& scratch,
                const ScratchSizes& sizes);

    // From now on `lookahead`, which outlives this, is told of routings and of times when the disk is idle.
    void look_ahead_with(Lookahead* lookahead) { lookahead_ = lookahead; }
    // scratch.block_out = experts(scratch.normed), whose vectors are quantised already. `table` counts sparse layers;
    // `last`: no more tokens of this prompt follow.
    void run(const LayerWeights& weights, int table, int64_t tokens, bool last);
    // The same without shared experts, by the routing in scratch.chosen and scratch.chosen_weight: no expert twice for
    // a token; an index equal to the layer's number of experts means none.
    void run_routed(int table, int64_t tokens, bool last);

private:
    // One feed-forward for a single token, in row `row` of the working memory.
    struct Place {
        FeedForward weights;
        int64_t row;
    };
    using Ranks = std::vector<int64_t>;

    void route_tokens(const LayerWeights& weights, const Activations& input);
    void group_tokens(int table, int64_t tokens, bool last);
    void add_experts(const LayerWeights& weights, int table, const Activations& input, bool last);
    // Rows of `shared_out`, [tokens][hidden], scaled by the shared router, are added to the output.
    void add_shared(const LayerWeights& weights, const Activations& input, const float* shared_out);

    // decode_experts.cpp
    void decode(const LayerWeights& weights, int table, const Activations& input);
    Ranks request_chosen(int table);
    Ranks take_ready(Ranks& ranks, int matrices) const;
    void decode_arriving(int table, Ranks coming, const Activations& input);
    bool all_ready(const Ranks& ranks) const;
    void disk_idle(int table);
    void sum_experts();
    std::vector<Place> places_of(const Ranks& ranks);
    Activations middle_of(const Place& place) const;
    void widen(const std::vector<Place>& places, const Activations& input);
    void narrow(const std::vector<Place>& places);

    // prefill_experts.cpp
    void prefill(const LayerWeights& weights, int table, const Activations& input);
    void prefill_expert(int expert, const Activations& input);
    // The chosen tokens one after the other, with their `values` when a dense matrix reads them.
    Activations gather(const Activations& input, const int64_t* slots, int64_t count, bool values) const;

    const Machine& machine_;
    const ModelConfig& config_;
    ExpertStore& store_;
    Scratch& scratch_;
    Lookahead* lookahead_ = nullptr;
    int64_t width_;                 // floats between rows of the working memory
    int64_t lasting_tokens_;        // at a prompt's end, whose experts are expected back
    std::vector<int> wanted_;       // experts of this chunk, ascending
    std::vector<uint8_t> lasting_;  // per expert: one of those tokens uses it
    std::vector<int64_t> first_;    // per expert: where its part of slots_ begins
    std::vector<int64_t> slots_;    // token * top_k + rank, grouped by expert
};

}  // namespace moecompress
