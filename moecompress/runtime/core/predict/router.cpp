// The router of the coming layer, on the input of the layer at work: the residual stream changes little in one layer.
#include "predict/predictor.h"

namespace moecompress {

namespace {

class CarriedRouter final : public Predictor {
public:
    void routed(int, const int32_t*, const float*, int) override {}
    bool looks_ahead() const override { return true; }

    bool score(int layer, const RouterAhead& ahead, float* scores) const override {
        if (!ahead) return false;
        ahead(layer, scores);
        return true;
    }
};

const RegisteredPredictor router("router", [](PredictorSetup) { return std::make_unique<CarriedRouter>(); });

}  // namespace

}  // namespace moecompress
