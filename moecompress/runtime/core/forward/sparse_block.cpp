#include "forward/sparse_block.h"

#include <algorithm>

#include "forward/norm.h"
#include "forward/router.h"

namespace moecompress {

namespace {

constexpr int64_t most_lasting_tokens = 8;

// As many tokens as there is room for, so that the experts of one do not push out those of another.
int64_t lasting_tokens(const ExpertStore& store, int64_t top_k) {
    const int64_t token_set = int64_t(store.layers().size()) * top_k;
    return std::clamp<int64_t>(store.slots() / std::max<int64_t>(token_set, 1), 1, most_lasting_tokens);
}

}  // namespace

SparseBlock::SparseBlock(const Machine& machine, const ModelConfig& config, ExpertStore& store, Scratch& scratch,
                         const ScratchSizes& sizes)
    : machine_(machine),
      config_(config),
      store_(store),
      scratch_(scratch),
      width_(sizes.width),
      lasting_tokens_(lasting_tokens(store, config.top_k)) {
    wanted_.reserve(size_t(sizes.experts));
    slots_.resize(size_t(sizes.chunk * config.top_k));
}

void SparseBlock::run(const LayerWeights& weights, int table, int64_t tokens, bool last) {
    const Activations input = scratch_.normed.activations(tokens, config_.hidden);
    route_tokens(weights, input);
    if (lookahead_ != nullptr) lookahead_->routed(table, tokens);
    add_experts(weights, table, input, last);
}

void SparseBlock::run_routed(int table, int64_t tokens, bool last) {
    add_experts(LayerWeights(), table, scratch_.normed.activations(tokens, config_.hidden), last);
}

void SparseBlock::add_experts(const LayerWeights& weights, int table, const Activations& input, bool last) {
    group_tokens(table, input.tokens, last);
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
void SparseBlock::group_tokens(int table, int64_t tokens, bool last) {
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
    if (!last) return;
    for (int64_t slot = std::max<int64_t>(0, tokens - lasting_tokens_) * config_.top_k; slot < count; ++slot)
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

}  // namespace moecompress
