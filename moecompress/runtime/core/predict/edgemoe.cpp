// EdgeMoE's prediction from the two layers before (arXiv 2308.14352), in additive form:
//
//     log-odds(e) = prior(e) + sum over experts j chosen one layer before of one_layer[j][e]
//                            + sum over experts j chosen two layers before of two_layer[j][e]
//
// The paper looks up the whole activation status of both layers in a dictionary; with several of many experts a token
// the same status hardly ever comes twice. The layers before the first are the last ones of the token before.
#include <algorithm>
#include <utility>

#include "kernels/layout.h"
#include "predict/priors.h"

namespace moecompress {

namespace {

class TwoLayerPrior final : public Predictor {
public:
    explicit TwoLayerPrior(PredictorSetup setup)
        : experts_(std::move(setup.experts)), odds_(prior_log_odds(setup.priors)), priors_(std::move(setup.priors)) {}

    void routed(int layer, const int32_t* chosen, const float*, int count) override {
        before_ = std::move(last_);
        last_ = {layer, std::vector<int32_t>(chosen, chosen + count)};
    }

    bool score(int layer, const RouterAhead&, float* scores) const override {
        const int experts = experts_[size_t(layer)], layers = priors_.layers;
        std::copy_n(odds_.begin() + int64_t(layer) * priors_.experts, experts, scores);
        const bool next = last_.layer < 0 || (last_.layer + 1) % layers == layer;
        if (next) {
            add(priors_.one_layer, layer, last_, scores);
            add(priors_.two_layer, layer, before_, scores);
        } else {
            add(priors_.two_layer, layer, last_, scores);
        }
        return true;
    }

private:
    struct Choice {
        int layer = -1;  // -1: nothing was chosen yet
        std::vector<int32_t> experts;
    };

    void add(const std::vector<uint16_t>& table, int layer, const Choice& choice, float* scores) const {
        for (const int32_t before : choice.experts) {
            if (before >= experts_[size_t(choice.layer)]) continue;  // none
            const uint16_t* const row = table.data() + (int64_t(layer) * priors_.experts + before) * priors_.experts;
            for (int expert = 0; expert < experts_[size_t(layer)]; ++expert) scores[expert] += half_to_float(row[expert]);
        }
    }

    std::vector<int> experts_;
    std::vector<float> odds_;
    Priors priors_;
    Choice last_, before_;
};

const RegisteredPredictor edgemoe("edgemoe", [](PredictorSetup setup) {
    check_priors(setup, "edgemoe", true);
    return std::make_unique<TwoLayerPrior>(std::move(setup));
});

}  // namespace

}  // namespace moecompress
