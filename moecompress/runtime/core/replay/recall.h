// How many of the experts that a recorded routing chose a predictor would have named.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "predict/predictor.h"
#include "replay/trace.h"

namespace moecompress {

// Experts that the router of each layer ranked first when it was given the input of the layer before, best first.
struct RecordedGuesses {
    int count = 0;                    // per layer; 0: none were recorded
    const uint16_t* guess = nullptr;  // [token][layer][count]; no expert of that number: nothing was guessed
};

// [token][layer]: how many of the chosen experts are among the `named` likeliest; 255 where the predictor has nothing to
// say. Every layer is predicted when the routing of the one before is known. Throws std::invalid_argument.
std::vector<uint8_t> recall(const RoutingTrace& trace, const RecordedGuesses& guesses, const std::string& predictor,
                            PredictorSetup setup, int named);

}  // namespace moecompress
