#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "forward/feed_forward.h"
#include "forward/norm.h"
#include "forward/router.h"

namespace moecompress {

namespace {

constexpr int64_t lasting_tokens = 8;   // at a chunk's end: their experts are likely to be used next
constexpr size_t experts_read_ahead = 8;  // of the one being computed in a long prompt

// The quantised form of one token.
void copy_token(const Activations& from, int64_t token, const Activations& to, int64_t place) {
    for (int64_t block = 0; block < from.blocks(); ++block) {
        const int64_t source = from.place(block, token), target = to.place(block, place);
        std::copy_n(from.integers + source * block_columns, block_columns, to.integers + target * block_columns);
        std::copy_n(from.high + source * block_columns, block_columns, to.high + target * block_columns);
        std::copy_n(from.low + source * block_columns, block_columns, to.low + target * block_columns);
        to.scale[target] = from.scale[source];
        to.sum[target] = from.sum[source];
    }
}

}  // namespace

SparseBlock::SparseBlock(const Machine& machine, const ModelConfig& config, ExpertStore& store, Scratch& scratch,
                         const ScratchSizes& sizes)
    : machine_(machine), config_(config), store_(store), scratch_(scratch), width_(sizes.width) {
    wanted_.reserve(size_t(sizes.experts));
    slots_.resize(size_t(sizes.chunk * config.top_k));
}

void SparseBlock::run(const LayerWeights& weights, int table, int64_t tokens) {
    const Activations input = scratch_.normed.activations(tokens, config_.hidden);
    route_tokens(weights, input);
    add_experts(weights, table, input);
}

void SparseBlock::run_routed(int table, int64_t tokens) {
    add_experts(LayerWeights(), table, scratch_.normed.activations(tokens, config_.hidden));
}

void SparseBlock::add_experts(const LayerWeights& weights, int table, const Activations& input) {
    group_tokens(table, input.tokens);
    std::fill_n(scratch_.block_out, input.tokens * config_.hidden, 0.0f);
    if (input.tokens == 1)
        decode(weights, table, input);
    else
        prefill(weights, table, input);
}

void SparseBlock::route_tokens(const LayerWeights& weights, const Activations& input) {
    const int64_t experts = weights.router.rows;
    machine_.multiply({{weights.router, input, scratch_.router_logits, experts}});
    machine_.run(input.tokens, input.tokens * element_operations * experts, [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token)
            route(machine_.kernels, scratch_.router_logits + token * experts, experts, config_.top_k,
                  config_.renormalise, scratch_.chosen + token * config_.top_k,
                  scratch_.chosen_weight + token * config_.top_k);
    });
}

// Counting sort of the chosen (token, rank) slots by expert, those without one last; stable, so tokens of an expert
// stay in order.
void SparseBlock::group_tokens(int table, int64_t tokens) {
    const size_t experts = store_.layers()[size_t(table)].experts.size();
    const int64_t count = tokens * config_.top_k;
    first_.assign(experts + 2, 0);
    lasting_.assign(experts + 1, 0);
    wanted_.clear();
    for (int64_t slot = 0; slot < count; ++slot) ++first_[size_t(scratch_.chosen[slot]) + 1];
    for (size_t expert = 0; expert < experts; ++expert) {
        if (first_[expert + 1] > 0) wanted_.push_back(int(expert));
        first_[expert + 1] += first_[expert];
    }
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t slot = 0; slot < count; ++slot) slots_[size_t(next[size_t(scratch_.chosen[slot])]++)] = slot;
    for (int64_t slot = std::max<int64_t>(0, tokens - lasting_tokens) * config_.top_k; slot < count; ++slot)
        lasting_[size_t(scratch_.chosen[slot])] = 1;
}

void SparseBlock::add_shared(const LayerWeights& weights, const Activations& input, const float* shared_out) {
    const bool scaled = weights.shared_router.data != nullptr;
    if (scaled) machine_.multiply({{weights.shared_router, input, scratch_.shared_scale, 1}});
    for (int64_t token = 0; token < input.tokens; ++token) {
        float* const out = scratch_.block_out + token * config_.hidden;
        const float scale = scaled ? sigmoid(scratch_.shared_scale[token]) : 1.0f;
        machine_.kernels.add_scaled(out, shared_out + token * config_.hidden, scale, config_.hidden);
    }
}

// One token: experts in memory first, while the others are read; then each as it arrives.
void SparseBlock::decode(const LayerWeights& weights, int table, const Activations& input) {
    const LayerWork work(store_, table, Phase::decode, wanted_);
    const int experts = int(store_.layers()[size_t(table)].experts.size());
    std::vector<Place> places;
    std::vector<int64_t> misses;
    for (int64_t rank = 0; rank < config_.top_k; ++rank) {
        const int expert = scratch_.chosen[rank];
        if (expert == experts) continue;  // none
        if (!store_.resident(expert)) {
            misses.push_back(rank);
        } else if (store_.request(expert, true)) {
            places.push_back({store_.get(expert), rank});
        }
    }
    for (const int64_t rank : misses)
        if (!store_.request(scratch_.chosen[rank], true))
            throw std::logic_error("The cache has fewer slots than top-k.");
    if (weights.shared.present()) places.push_back({weights.shared, config_.top_k});
    compute_places(places, input);
    decode_misses(std::move(misses), input);
    for (const int expert : wanted_) {
        const int64_t rank = slots_[size_t(first_[size_t(expert)])];
        machine_.kernels.add_scaled(scratch_.block_out, scratch_.expert_out + rank * config_.hidden,
                                    scratch_.chosen_weight[rank], config_.hidden);
    }
    if (weights.shared.present()) add_shared(weights, input, scratch_.expert_out + config_.top_k * config_.hidden);
}

void SparseBlock::decode_misses(std::vector<int64_t> pending, const Activations& input) {
    std::vector<Place> places;
    while (!pending.empty()) {
        places.clear();
        store_.get(scratch_.chosen[pending.front()]);  // sleeps until the oldest read is done
        const auto arrived = [&](int64_t rank) {
            const int expert = scratch_.chosen[rank];
            if (!store_.ready(expert)) return false;
            places.push_back({store_.get(expert), rank});
            return true;
        };
        pending.erase(std::remove_if(pending.begin(), pending.end(), arrived), pending.end());
        compute_places(places, input);
    }
}

Activations SparseBlock::place_activations(const Place& place) const {
    uint8_t* const workspace = scratch_.gate.workspace + size_t(place.row) * Activations::workspace_bytes(1, width_);
    return Activations::in(workspace, 1, place.weights.gate.rows, scratch_.gate.values + place.row * width_);
}

void SparseBlock::compute_places(const std::vector<Place>& places, const Activations& input) {
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
            machine_.kernels.quantize(place_activations(places[size_t(i)]), 0, 1);
        }
    });
    products.clear();
    for (const Place& place : places)
        products.push_back({place.weights.down, place_activations(place),
                            scratch_.expert_out + place.row * config_.hidden, config_.hidden});
    machine_.multiply(products);
}

// Many tokens: expert by expert in ascending order, each for all its tokens, reading ahead; one slot would do.
void SparseBlock::prefill(const LayerWeights& weights, int table, const Activations& input) {
    {
        const LayerWork work(store_, table, Phase::prefill, wanted_);
        size_t requested = 0;
        for (size_t i = 0; i < wanted_.size(); ++i) {
            while (requested < wanted_.size() && requested <= i + experts_read_ahead &&
                   store_.request(wanted_[requested], lasting_[size_t(wanted_[requested])] != 0))
                ++requested;
            prefill_expert(wanted_[i], input);
            store_.release(wanted_[i]);
        }
    }
    if (!weights.shared.present()) return;
    feed_forward(machine_, weights.shared, input, scratch_, scratch_.expert_out);
    add_shared(weights, input, scratch_.expert_out);
}

void SparseBlock::prefill_expert(int expert, const Activations& input) {
    const int64_t* const slots = slots_.data() + first_[size_t(expert)];
    const int64_t count = first_[size_t(expert) + 1] - first_[size_t(expert)];
    const FeedForward weights = store_.get(expert);
    feed_forward(machine_, weights, gather(input, slots, count), scratch_, scratch_.expert_out);
    machine_.run(count, count * config_.hidden, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float* const out = scratch_.block_out + slots[i] / config_.top_k * config_.hidden;
            machine_.kernels.add_scaled(out, scratch_.expert_out + i * config_.hidden, scratch_.chosen_weight[slots[i]],
                                        config_.hidden);
        }
    });
}

Activations SparseBlock::gather(const Activations& input, const int64_t* slots, int64_t count) const {
    const Activations gathered = scratch_.gathered.activations(count, config_.hidden);
    machine_.run(count, count * config_.hidden, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t token = slots[i] / config_.top_k;
            copy_token(input, token, gathered, i);
            std::memcpy(scratch_.gathered.values + i * config_.hidden, input.values + token * config_.hidden,
                        size_t(config_.hidden) * sizeof(float));
        }
    });
    return gathered;
}

}  // namespace moecompress
