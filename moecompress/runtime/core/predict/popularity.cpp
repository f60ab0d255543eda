// The experts a layer used most while it was calibrated, whatever the text: what any other predictor has to beat.
#include <algorithm>

#include "predict/priors.h"

namespace moecompress {

namespace {

class Popularity final : public Predictor {
public:
    explicit Popularity(const PredictorSetup& setup)
        : experts_(setup.experts), stride_(setup.priors.experts), odds_(prior_log_odds(setup.priors)) {}

    void routed(int, const int32_t*, const float*, int) override {}

    bool score(int layer, const RouterAhead&, float* scores) const override {
        std::copy_n(odds_.begin() + int64_t(layer) * stride_, experts_[size_t(layer)], scores);
        return true;
    }

private:
    std::vector<int> experts_;
    int stride_;
    std::vector<float> odds_;
};

const RegisteredPredictor popularity("popularity", [](PredictorSetup setup) {
    check_priors(setup, "popularity", false);
    return std::make_unique<Popularity>(setup);
});

}  // namespace

}  // namespace moecompress
