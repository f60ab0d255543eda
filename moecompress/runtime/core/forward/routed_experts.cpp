#include "forward/routed_experts.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace moecompress {

namespace {

bool between(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

void check_options(const RoutedOptions& options) {
    if (!between(options.top_k, 1, 1024) || !between(options.chunk, 1, 4096))
        throw std::invalid_argument("Experts per token: 1 to 1024 are possible; tokens per chunk: 1 to 4096.");
    if (!between(options.threads, 1, 1024) || !between(options.store.lanes, 1, 64))
        throw std::invalid_argument("Threads must lie between 1 and 1024, reader lanes between 1 and 64.");
    if (options.store.slots != 0 && options.store.slots < options.top_k)
        throw std::invalid_argument("The cache needs at least " + std::to_string(options.top_k) + " slots, not " +
                                    std::to_string(options.store.slots) + ".");
}

// The part of a model's configuration that its experts depend on.
ModelConfig config_of(const std::vector<ExpertLayer>& layers, const RoutedOptions& options) {
    check_options(options);
    if (layers.empty() || layers.front().experts.empty())
        throw std::invalid_argument("There are no experts to serve.");
    ModelConfig config;
    config.hidden = layers.front().experts.front().gate.columns;
    config.top_k = options.top_k;
    for (const ExpertLayer& layer : layers) check_layer(layer, config.hidden, std::numeric_limits<uint64_t>::max());
    return config;
}

ScratchSizes sizes_of(const std::vector<ExpertLayer>& layers, int64_t chunk) {
    ScratchSizes sizes;
    sizes.chunk = chunk;
    for (const ExpertLayer& layer : layers) {
        sizes.experts = std::max(sizes.experts, int64_t(layer.experts.size()));
        for (const ExpertEntry& expert : layer.experts) sizes.width = std::max(sizes.width, expert.gate.rows);
    }
    return sizes;
}

}  // namespace

RoutedExperts::RoutedExperts(const std::string& folder, const std::vector<ExpertLayer>& layers,
                             const RoutedOptions& options)
    : config_(config_of(layers, options)),
      sizes_(sizes_of(layers, options.chunk)),
      scratch_memory_(Scratch().place(nullptr, config_, sizes_)),
      pool_(options.threads),
      machine_{options.isa.empty() ? kernels() : kernels_named(options.isa.c_str()), pool_},
      store_(ExpertStore::open(Folder(folder), layers, config_.hidden, options.store)),
      sparse_(machine_, config_, *store_, scratch_, sizes_) {
    scratch_.place(scratch_memory_.data(), config_, sizes_);
}

StoreStatistics RoutedExperts::statistics() {
    const std::lock_guard<std::mutex> turn(turn_);
    return store_->statistics();
}

void RoutedExperts::check(int table, const Routing& routing) const {
    if (!between(table, 0, int64_t(store_->layers().size()) - 1))
        throw std::invalid_argument("There is no table of experts " + std::to_string(table) + ".");
    if (!between(routing.ranks, 1, config_.top_k))
        throw std::invalid_argument("The routing names " + std::to_string(routing.ranks) +
                                    " experts per token; 1 to " + std::to_string(config_.top_k) + " are possible.");
    for (int64_t slot = 0; slot < routing.tokens * routing.ranks; ++slot)
        if (routing.index[slot] < 0)
            throw std::invalid_argument("The routing names expert " + std::to_string(routing.index[slot]) + ".");
}

void RoutedExperts::run(int table, const Routing& routing, const float* hidden, float* output) {
    const std::lock_guard<std::mutex> turn(turn_);
    check(table, routing);
    for (int64_t done = 0; done < routing.tokens; done += sizes_.chunk) {
        const int64_t slot = done * routing.ranks;
        const Routing part{std::min(sizes_.chunk, routing.tokens - done), routing.ranks, routing.index + slot,
                           routing.weight + slot};
        run_chunk(table, part, done + part.tokens == routing.tokens, hidden + done * config_.hidden, output + done * config_.hidden);
    }
}

void RoutedExperts::run_chunk(int table, const Routing& routing, bool last, const float* hidden, float* output) {
    const int64_t experts = int64_t(store_->layers()[size_t(table)].experts.size());
    const Activations input = scratch_.normed.activations(routing.tokens, config_.hidden);
    std::copy_n(hidden, routing.tokens * config_.hidden, scratch_.normed.values);
    const int64_t operations = routing.tokens * config_.hidden * element_operations;
    machine_.run(routing.tokens, operations, [&](int64_t first, int64_t last) {
        machine_.kernels.quantize(input, first, last);
        for (int64_t token = first; token < last; ++token) choose(experts, routing, token);
    });
    sparse_.run_routed(table, routing.tokens, last);
    std::copy_n(scratch_.block_out, routing.tokens * config_.hidden, output);
}

// Hands one token's routing on, each expert at most once.
void RoutedExperts::choose(int64_t experts, const Routing& routing, int64_t token) {
    const int64_t* const index = routing.index + token * routing.ranks;
    const float* const weight = routing.weight + token * routing.ranks;
    int32_t* const chosen = scratch_.chosen + token * config_.top_k;
    float* const chosen_weight = scratch_.chosen_weight + token * config_.top_k;
    std::fill_n(chosen, config_.top_k, int32_t(experts));
    for (int64_t rank = 0; rank < routing.ranks; ++rank) {
        if (index[rank] >= experts) continue;
        int32_t* const same = std::find(chosen, chosen + rank, int32_t(index[rank]));
        float& sum = chosen_weight[same - chosen];
        sum = same == chosen + rank ? weight[rank] : sum + weight[rank];
        *same = int32_t(index[rank]);
    }
}

}  // namespace moecompress
