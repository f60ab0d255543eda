#include "bindings/priors.h"

#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace moecompress {

namespace {

template <typename T, size_t dimensions>
std::vector<T> table(const nb::dict& values, const char* name, Priors& priors) {
    using Array = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
    Array array;
    if (!values.contains(name) || !nb::try_cast<Array>(values[name], array, false))
        throw std::invalid_argument(std::string("The priors need an array '") + name + "' of " +
                                    std::to_string(dimensions) + " dimensions.");
    if (dimensions == 2) {
        priors.layers = int(array.shape(0));
        priors.experts = int(array.shape(1));
    }
    bool fits = int(array.shape(0)) == priors.layers;
    for (size_t i = 1; i < dimensions; ++i) fits = fits && int(array.shape(i)) == priors.experts;
    if (!fits) throw std::invalid_argument(std::string("The shape of the priors' array '") + name + "' does not fit.");
    return std::vector<T>(array.data(), array.data() + array.size());
}

}  // namespace

Priors parse_priors(const nb::handle& values) {
    Priors priors;
    if (values.is_none()) return priors;
    const auto tables = nb::cast<nb::dict>(values);
    priors.popularity = table<float, 2>(tables, "popularity", priors);
    priors.one_layer = table<uint16_t, 3>(tables, "one_layer", priors);
    priors.two_layer = table<uint16_t, 3>(tables, "two_layer", priors);
    return priors;
}

}  // namespace moecompress
