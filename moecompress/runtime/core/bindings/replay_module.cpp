// Replay in Python: hit rates of cache policies and recall of predictors over a recorded routing.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/priors.h"
#include "cache/policy.h"
#include "predict/predictor.h"
#include "replay/hits.h"
#include "replay/recall.h"

namespace nb = nanobind;

namespace moecompress {
namespace {

using Choices = nb::ndarray<const uint16_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <typename T>
nb::ndarray<nb::numpy, T> array(std::vector<T> values, std::initializer_list<size_t> shape) {
    auto kept = std::make_unique<std::vector<T>>(std::move(values));
    T* const data = kept->data();
    const nb::capsule owner(kept.release(), [](void* memory) noexcept { delete static_cast<std::vector<T>*>(memory); });
    return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

RoutingTrace parse_trace(const Choices& chosen, const std::vector<int>& experts) {
    if (chosen.shape(1) != experts.size() || chosen.shape(2) == 0)
        throw std::invalid_argument("The routing must be given as [tokens, " + std::to_string(experts.size()) +
                                    " layers, top-k].");
    return {int64_t(chosen.shape(0)), int(chosen.shape(2)), experts, chosen.data(), nullptr};
}

nb::tuple replay_hits(const Choices& chosen, const std::vector<int>& experts, const std::string& policy, int slots) {
    Replayed result;
    {
        const nb::gil_scoped_release release;
        result = replay(parse_trace(chosen, experts), policy, slots);
    }
    const size_t misses = result.given_up.size();
    return nb::make_tuple(array(std::move(result.missed), {chosen.shape(0), chosen.shape(1), chosen.shape(2)}),
                          array(std::move(result.given_up), {misses}));
}

nb::ndarray<nb::numpy, uint8_t> replay_recall(const Choices& chosen, const Weights& weights, const Choices& guesses,
                                              const std::vector<int>& experts, const std::string& predictor,
                                              const nb::object& priors, int named) {
    RoutingTrace trace = parse_trace(chosen, experts);
    if (guesses.shape(0) != chosen.shape(0) || guesses.shape(1) != chosen.shape(1))
        throw std::invalid_argument("Guesses and choices must be of the same tokens and layers.");
    if (weights.size() != chosen.size()) throw std::invalid_argument("There must be a weight for every choice.");
    trace.weight = weights.data();
    const RecordedGuesses recorded{int(guesses.shape(2)), guesses.data()};
    PredictorSetup setup{experts, trace.top_k, parse_priors(priors)};
    std::vector<uint8_t> result;
    {
        const nb::gil_scoped_release release;
        result = recall(trace, recorded, predictor, std::move(setup), named);
    }
    return array(std::move(result), {chosen.shape(0), chosen.shape(1)});
}

}  // namespace
}  // namespace moecompress

void bind_replay(nb::module_& m) {
    using namespace moecompress;
    m.def("policy_names", &policy_names, "Cache policies by name.");
    m.def("predictor_names", &predictor_names, "Predictors by name.");
    m.def("replay", &replay_hits, nb::arg("chosen").noconvert(), nb::arg("experts"), nb::arg("policy"),
          nb::arg("slots"),
          "Run uint16 choices [tokens, layers, top-k] of layers of so many experts through a cache of empty slots: "
          "uint8 of the same shape, 1 for a miss, and for every miss the expert over all layers given up, or -1.");
    m.def("recall", &replay_recall, nb::arg("chosen").noconvert(), nb::arg("weights").noconvert(),
          nb::arg("guesses").noconvert(), nb::arg("experts"), nb::arg("predictor"), nb::arg("priors").none(),
          nb::arg("named"),
          "uint8 [tokens, layers]: how many choices are among the `named` likeliest of a predictor; 255: it says none.");
}
