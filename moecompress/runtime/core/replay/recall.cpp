#include "replay/recall.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace moecompress {

namespace {

constexpr uint8_t silent = 255;

// The recorded ranking as a router's logits.
RouterAhead replayed_router(const RoutingTrace& trace, const RecordedGuesses& guesses, int64_t token, int layer) {
    const int experts = trace.experts[size_t(layer)];
    const uint16_t* const guess = guesses.guess + (token * trace.layers() + layer) * guesses.count;
    if (guesses.count == 0 || *guess >= experts) return {};
    return [=, &guesses](int, float* logits) {
        std::fill_n(logits, experts, -std::numeric_limits<float>::infinity());
        for (int rank = 0; rank < guesses.count; ++rank)
            if (guess[rank] < experts) logits[guess[rank]] = float(-rank);
    };
}

uint8_t found(const uint16_t* chosen, int top_k, const std::vector<int>& named) {
    const auto is_named = [&](uint16_t expert) { return std::find(named.begin(), named.end(), expert) != named.end(); };
    return uint8_t(std::count_if(chosen, chosen + top_k, is_named));
}

}  // namespace

std::vector<uint8_t> recall(const RoutingTrace& trace, const RecordedGuesses& guesses, const std::string& predictor,
                            PredictorSetup setup, int named) {
    trace.check();
    if (trace.top_k >= silent) throw std::invalid_argument("Recall is counted for fewer than 255 experts a token.");
    const auto model = make_predictor(predictor, std::move(setup));
    std::vector<uint8_t> result;
    std::vector<float> scores;
    std::vector<int> names;
    for (int64_t token = 0; token < trace.tokens; ++token)
        for (int layer = 0; layer < trace.layers(); ++layer) {
            const int experts = trace.experts[size_t(layer)];
            scores.resize(size_t(experts));
            const bool said = model->score(layer, replayed_router(trace, guesses, token, layer), scores.data());
            if (said) likeliest(scores.data(), experts, named, names);
            const uint16_t* const chosen = trace.at(token, layer);
            result.push_back(said ? found(chosen, trace.top_k, names) : silent);
            const std::vector<int32_t> known(chosen, chosen + trace.top_k);
            model->routed(layer, known.data(), trace.weight + trace.place(token, layer), trace.top_k);
        }
    return result;
}

}  // namespace moecompress
