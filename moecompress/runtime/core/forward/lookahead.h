// Names experts that layers to come are likely to want, so that they are read while the disk is idle.
#pragma once

#include <memory>
#include <vector>

#include "forward/config.h"
#include "forward/products.h"
#include "forward/scratch.h"
#include "forward/trunk.h"
#include "predict/predictor.h"
#include "store/expert_store.h"

namespace moecompress {

class Lookahead {
public:
    // `layers`: weights of the layers with experts, in their order; they outlive this.
    Lookahead(const Machine& machine, const ModelConfig& config, const Scratch& scratch, ReadAhead& read_ahead,
              std::vector<const LayerWeights*> layers, std::unique_ptr<Predictor> predictor);

    // The routing of a chunk at a layer is in the working memory.
    void routed(int table, int64_t tokens);
    // All reads of a layer that decodes a token are done: from now until the next layer's routing the disk is idle, and
    // after the last layer until the next token's first one.
    void disk_idle(int table);

private:
    void guess(int table, const RouterAhead& ahead, Window window);

    const Machine& machine_;
    const ModelConfig& config_;
    const Scratch& scratch_;
    ReadAhead& read_ahead_;
    std::vector<const LayerWeights*> layers_;
    std::unique_ptr<Predictor> predictor_;
    std::vector<float> scores_;
    std::vector<int> likely_;
};

}  // namespace moecompress
