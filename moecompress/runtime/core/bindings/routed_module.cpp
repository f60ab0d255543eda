// Routed experts in Python: for the bridge to transformers, where everything else of a model is torch's.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/experts.h"
#include "forward/routed_experts.h"

namespace nb = nanobind;

namespace moecompress {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

void check_shapes(const RoutedExperts& experts, const Matrix& hidden, const Indices& index, const Matrix& weights) {
    if (int64_t(hidden.shape(1)) != experts.hidden_size())
        throw std::invalid_argument("These experts take vectors of " + std::to_string(experts.hidden_size()) +
                                    " elements, not of " + std::to_string(hidden.shape(1)) + ".");
    if (index.shape(0) != hidden.shape(0) || weights.shape(0) != hidden.shape(0) || index.shape(1) != weights.shape(1))
        throw std::invalid_argument("Hidden states, expert indices and weights must have a row per token, and as many "
                                    "weights as indices.");
}

Result run(RoutedExperts& experts, int table, const Matrix& hidden, const Indices& index, const Matrix& weights) {
    check_shapes(experts, hidden, index, weights);
    const Routing routing{int64_t(hidden.shape(0)), int64_t(index.shape(1)), index.data(), weights.data()};
    const size_t shape[2] = {hidden.shape(0), hidden.shape(1)};
    auto values = std::make_unique<float[]>(shape[0] * shape[1]);
    {
        const nb::gil_scoped_release release;
        experts.run(table, routing, hidden.data(), values.get());
    }
    float* const data = values.release();
    const nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<float*>(memory); });
    return Result(data, 2, shape, owner);
}

}  // namespace
}  // namespace moecompress

void bind_routed(nb::module_& m) {
    using namespace moecompress;
    nb::class_<RoutedExperts>(m, "RoutedExperts", "The experts of a model, without the model.")
        .def(
            "__init__",
            [](RoutedExperts* self, const std::string& folder, const std::vector<LayerTuple>& layers, int64_t top_k,
               int slots, int threads, int lanes, int64_t chunk, const std::string& isa) {
                const std::vector<ExpertLayer> parsed = parse_layers(layers);
                RoutedOptions options;
                options.top_k = top_k;
                options.chunk = chunk;
                options.threads = threads;
                options.isa = isa;
                options.store.slots = slots;
                options.store.lanes = lanes;
                const nb::gil_scoped_release release;
                new (self) RoutedExperts(folder, parsed, options);
            },
            nb::arg("folder"), nb::arg("layers"), nb::arg("top_k"), nb::arg("slots") = 0, nb::arg("threads") = 1,
            nb::arg("lanes") = 2, nb::arg("chunk") = 256, nb::arg("isa") = "")
        .def("run", &run, nb::arg("table"), nb::arg("hidden").noconvert(), nb::arg("index").noconvert(),
             nb::arg("weights").noconvert(),
             "Weighted sums of experts: hidden float32 [n, hidden], index int64 and weights float32 [n, k]; an index "
             "at or beyond the number of experts means none. `table` counts layers.")
        .def(
            "stats",
            [](RoutedExperts& experts) { return store_statistics(experts.statistics(), experts.direct()); },
            "Counters of the expert store since it was opened.");
}
