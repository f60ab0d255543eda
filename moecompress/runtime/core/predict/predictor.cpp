#include "predict/predictor.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace moecompress {

namespace {

std::map<std::string, PredictorFactory>& registry() {
    static std::map<std::string, PredictorFactory> factories;
    return factories;
}

}  // namespace

RegisteredPredictor::RegisteredPredictor(const std::string& name, PredictorFactory factory) {
    registry()[name] = std::move(factory);
}

std::unique_ptr<Predictor> make_predictor(const std::string& name, PredictorSetup setup) {
    const auto found = registry().find(name);
    if (found != registry().end()) return found->second(std::move(setup));
    std::string known;
    for (const std::string& other : predictor_names()) known += (known.empty() ? "" : ", ") + other;
    throw std::invalid_argument("Unknown predictor '" + name + "'. Allowed: " + known + ".");
}

std::vector<std::string> predictor_names() {
    std::vector<std::string> names;
    for (const auto& entry : registry()) names.push_back(entry.first);
    return names;
}

void likeliest(const float* scores, int experts, int count, std::vector<int>& result) {
    result.resize(size_t(experts));
    std::iota(result.begin(), result.end(), 0);
    const size_t kept = size_t(std::clamp(count, 0, experts));
    std::partial_sort(result.begin(), result.begin() + std::ptrdiff_t(kept), result.end(), [&](int a, int b) {
        return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
    result.resize(kept);
}

}  // namespace moecompress
