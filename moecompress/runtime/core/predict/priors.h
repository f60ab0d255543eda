// What predictors read from the tables of priors.safetensors.
#pragma once

#include <string>
#include <vector>

#include "predict/predictor.h"

namespace moecompress {

// Throws std::invalid_argument, naming the predictor, unless the tables it needs are there and fit the model's layers.
void check_priors(const PredictorSetup& setup, const std::string& predictor, bool transitions);

// Log-odds of every expert [layer][expert] by its popularity, kept finite for experts never or always chosen.
std::vector<float> prior_log_odds(const Priors& priors);

}  // namespace moecompress
