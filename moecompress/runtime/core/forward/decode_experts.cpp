// One token: what is in memory is computed while the rest is read; then each expert as its matrices arrive.
#include <algorithm>
#include <stdexcept>

#include "forward/sparse_block.h"

namespace moecompress {

void SparseBlock::decode(const LayerWeights& weights, int table, const Activations& input) {
    const LayerWork work(store_, table, Phase::decode, wanted_);
    Ranks coming = request_chosen(table);
    std::vector<Place> places = places_of(take_ready(coming, whole_record));
    if (coming.empty()) disk_idle(table);
    if (weights.shared.present()) places.push_back({weights.shared, config_.top_k});
    widen(places, input);
    narrow(places);
    decode_arriving(table, std::move(coming), input);
    sum_experts();
    if (weights.shared.present()) add_shared(weights, input, scratch_.expert_out + config_.top_k * config_.hidden);
    if (table + 1 == int(store_.layers().size())) store_.token_done();
}

// Those in memory first, so that none of them has to make room; then reads start by descending weight. Returns every
// rank that has an expert.
SparseBlock::Ranks SparseBlock::request_chosen(int table) {
    const int experts = int(store_.layers()[size_t(table)].experts.size());
    Ranks ranks, missing;
    for (int64_t rank = 0; rank < config_.top_k; ++rank) {
        if (scratch_.chosen[rank] == experts) continue;  // none
        (store_.present(scratch_.chosen[rank]) ? ranks : missing).push_back(rank);
    }
    ranks.insert(ranks.end(), missing.begin(), missing.end());
    for (const int64_t rank : ranks)
        if (!store_.request(scratch_.chosen[rank], true))
            throw std::logic_error("The cache has fewer slots than top-k.");
    for (const int64_t rank : ranks)
        if (!store_.overlap()) store_.get(scratch_.chosen[rank]);
    return ranks;
}

// Moves the ranks whose leading matrices are there out of `ranks`.
SparseBlock::Ranks SparseBlock::take_ready(Ranks& ranks, int matrices) const {
    const auto later = std::stable_partition(ranks.begin(), ranks.end(), [&](int64_t rank) {
        return store_.ready(scratch_.chosen[rank], matrices);
    });
    Ranks ready(ranks.begin(), later);
    ranks.erase(ranks.begin(), later);
    return ready;
}

// Gate and up of an expert are multiplied while its down is read.
void SparseBlock::decode_arriving(int table, Ranks coming, const Activations& input) {
    Ranks halfway;
    bool reading = !coming.empty();
    while (!coming.empty() || !halfway.empty()) {
        if (halfway.empty())
            store_.get(scratch_.chosen[coming.front()], gate_and_up);
        else
            store_.get(scratch_.chosen[halfway.front()], whole_record);
        if (reading && all_ready(coming) && all_ready(halfway)) {
            reading = false;
            disk_idle(table);
        }
        const Ranks arrived = take_ready(coming, gate_and_up);
        widen(places_of(arrived), input);
        halfway.insert(halfway.end(), arrived.begin(), arrived.end());
        narrow(places_of(take_ready(halfway, whole_record)));
    }
}

bool SparseBlock::all_ready(const Ranks& ranks) const {
    return std::all_of(ranks.begin(), ranks.end(),
                       [&](int64_t rank) { return store_.ready(scratch_.chosen[rank], whole_record); });
}

void SparseBlock::disk_idle(int table) {
    if (lookahead_ != nullptr) lookahead_->disk_idle(table);
}

void SparseBlock::sum_experts() {
    for (const int expert : wanted_) {
        const int64_t rank = slots_[size_t(first_[size_t(expert)])];
        machine_.kernels.add_scaled(scratch_.block_out, scratch_.expert_out + rank * config_.hidden,
                                    scratch_.chosen_weight[rank], config_.hidden);
    }
}

std::vector<SparseBlock::Place> SparseBlock::places_of(const Ranks& ranks) {
    std::vector<Place> places;
    for (const int64_t rank : ranks) places.push_back({store_.get(scratch_.chosen[rank], gate_and_up), rank});
    return places;
}

Activations SparseBlock::middle_of(const Place& place) const {
    uint8_t* const workspace = scratch_.gate.workspace + size_t(place.row) * Activations::workspace_bytes(1, width_);
    return Activations::in(workspace, 1, place.weights.gate.rows, scratch_.gate.values + place.row * width_);
}

// silu(gate x) * (up x) of every place.
void SparseBlock::widen(const std::vector<Place>& places, const Activations& input) {
    std::vector<Product> products;
    for (const Place& place : places) {
        products.push_back({place.weights.gate, input, scratch_.gate.values + place.row * width_, width_});
        products.push_back({place.weights.up, input, scratch_.up + place.row * width_, width_});
    }
    machine_.multiply(products);
    const int64_t count = int64_t(places.size());
    machine_.run(count, count * element_operations * width_, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float* const gate = scratch_.gate.values + places[size_t(i)].row * width_;
            const float* const up = scratch_.up + places[size_t(i)].row * width_;
            machine_.kernels.silu_multiply(gate, up, gate, places[size_t(i)].weights.gate.rows);
            machine_.kernels.quantize(middle_of(places[size_t(i)]), 0, 1);
        }
    });
}

// down times what widen() left.
void SparseBlock::narrow(const std::vector<Place>& places) {
    std::vector<Product> products;
    for (const Place& place : places)
        products.push_back({place.weights.down, middle_of(place), scratch_.expert_out + place.row * config_.hidden,
                            config_.hidden});
    machine_.multiply(products);
}

}  // namespace moecompress
