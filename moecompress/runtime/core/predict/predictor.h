// Which experts a coming layer is likely to use. One predictor per file; adding a file adds the predictor by its name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moecompress {

// How a model was seen to route while it was calibrated (priors.safetensors). Layers count layers with routed experts;
// a layer with fewer experts than `experts` leaves the rest of its rows unused. Arrays are empty when there are none.
struct Priors {
    int layers = 0;
    int experts = 0;                  // most of any layer
    std::vector<float> popularity;    // [layer][expert]: share of tokens that went to the expert
    std::vector<uint16_t> one_layer;  // [layer][before][expert]: half floats, what the choice of `before` one layer
                                      // earlier adds to the log-odds of `expert`
    std::vector<uint16_t> two_layer;  // the same for two layers earlier; before layer 0 comes the last token's last one
};

struct PredictorSetup {
    std::vector<int> experts;  // of each layer with routed experts
    int top_k = 0;
    Priors priors;
};

// Fills logits[experts of `layer`] with what the router of a coming layer makes of the input of the layer at work.
using RouterAhead = std::function<void(int layer, float* logits)>;

// Called by the compute thread only.
class Predictor {
public:
    virtual ~Predictor() = default;
    // A token's routing at a layer is known. Calls come in the order of work: layer 0 follows the last layer.
    virtual void routed(int layer, const int32_t* chosen, const float* weights, int count) = 0;
    // Whether score() calls `ahead`, that is, costs a matrix-vector product.
    virtual bool looks_ahead() const { return false; }
    // Fills scores[experts of `layer`], larger is likelier, on a scale of log-odds. `layer` is the next one or the one
    // after it. `ahead` may be empty when no input is at hand. False: nothing can be said, scores are undefined.
    virtual bool score(int layer, const RouterAhead& ahead, float* scores) const = 0;
};

using PredictorFactory = std::function<std::unique_ptr<Predictor>(PredictorSetup setup)>;

// Names the predictor at load time: `const RegisteredPredictor popularity("popularity", factory);`
struct RegisteredPredictor {
    RegisteredPredictor(const std::string& name, PredictorFactory factory);
};

// Throws std::invalid_argument for an unknown name, listing the known ones, and for one whose tables are missing.
std::unique_ptr<Predictor> make_predictor(const std::string& name, PredictorSetup setup);
std::vector<std::string> predictor_names();

// The `count` largest scores as expert numbers, largest first, the lower expert first among equals.
void likeliest(const float* scores, int experts, int count, std::vector<int>& result);

}  // namespace moecompress
