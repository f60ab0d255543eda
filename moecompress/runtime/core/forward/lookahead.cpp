#include "forward/lookahead.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace moecompress {

Lookahead::Lookahead(const Machine& machine, const ModelConfig& config, const Scratch& scratch, ReadAhead& read_ahead,
                     std::vector<const LayerWeights*> layers, std::unique_ptr<Predictor> predictor)
    : machine_(machine),
      config_(config),
      scratch_(scratch),
      read_ahead_(read_ahead),
      layers_(std::move(layers)),
      predictor_(std::move(predictor)) {
    int64_t experts = 0;
    for (const LayerWeights* layer : layers_) experts = std::max(experts, layer->router.rows);
    scores_.resize(size_t(experts));
}

void Lookahead::routed(int table, int64_t tokens) {
    const int64_t last = (tokens - 1) * config_.top_k;
    predictor_->routed(table, scratch_.chosen + last, scratch_.chosen_weight + last, int(config_.top_k));
}

void Lookahead::disk_idle(int table) {
    if (!read_ahead_.governor().active()) return;
    const auto start = std::chrono::steady_clock::now();
    const int layers = int(layers_.size());
    if (table + 1 < layers) {
        const Activations input = scratch_.normed.activations(1, config_.hidden);
        const auto router = [&](int layer, float* logits) {
            const PackedMatrix& weights = layers_[size_t(layer)]->router;
            machine_.multiply({{weights, input, logits, weights.rows}});
        };
        guess(table + 1, router, Window::between_layers);
    } else {
        for (int next = 0; next < std::min(2, layers); ++next) guess(next, {}, Window::between_tokens);
    }
    read_ahead_.governor().guessing(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

void Lookahead::guess(int table, const RouterAhead& ahead, Window window) {
    if (!predictor_->score(table, ahead, scores_.data())) return;
    likeliest(scores_.data(), int(layers_[size_t(table)]->router.rows), int(config_.top_k), likely_);
    read_ahead_.guess(table, likely_, window);
}

}  // namespace moecompress
