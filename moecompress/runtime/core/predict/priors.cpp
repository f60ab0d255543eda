#include "predict/priors.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace moecompress {

namespace {

constexpr float rarest = 1e-4f;  // popularity that an expert never chosen is given; an expert always chosen misses as much

}  // namespace

void check_priors(const PredictorSetup& setup, const std::string& predictor, bool transitions) {
    const Priors& priors = setup.priors;
    if (priors.popularity.empty())
        throw std::invalid_argument("The predictor '" + predictor +
                                    "' needs priors.safetensors, which this artifact does not have: it was made "
                                    "without calibration. Use the predictor 'router', which needs none.");
    const size_t layers = size_t(priors.layers), experts = size_t(priors.experts);
    const size_t table = layers * experts * experts;
    const bool whole = priors.popularity.size() == layers * experts &&
                       (!transitions || (priors.one_layer.size() == table && priors.two_layer.size() == table));
    const bool fits = layers == setup.experts.size() &&
                      std::all_of(setup.experts.begin(), setup.experts.end(),
                                  [&](int count) { return size_t(count) <= experts; });
    if (!whole || !fits)
        throw std::invalid_argument("The tables of the predictor '" + predictor + "' do not fit the model's " +
                                    std::to_string(setup.experts.size()) + " layers of experts.");
}

std::vector<float> prior_log_odds(const Priors& priors) {
    std::vector<float> odds;
    odds.reserve(priors.popularity.size());
    for (const float popularity : priors.popularity) {
        const float p = std::clamp(popularity, rarest, 1.0f - rarest);
        odds.push_back(std::log(p / (1.0f - p)));
    }
    return odds;
}

}  // namespace moecompress
