#include "bindings/priors.h"

#include <nanobind/ndarray.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "store/checked.h"

namespace nb = nanobind;

namespace moecompress {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::vector<T> table(const nb::handle& value, uint64_t count) {
    Bytes bytes;
    if (!nb::try_cast<Bytes>(value, bytes)) throw std::invalid_argument("A table of priors must be bytes.");
    if (bytes.size() != checked_multiply(count, sizeof(T)))
        throw std::invalid_argument("A table of priors has " + std::to_string(bytes.size()) + " bytes, not " +
                                    std::to_string(count) + " numbers of " + std::to_string(sizeof(T)) + ".");
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

}  // namespace

Priors parse_priors(const nb::handle& value) {
    Priors priors;
    if (value.is_none()) return priors;
    nb::tuple parts;
    if (!nb::try_cast<nb::tuple>(value, parts) || parts.size() != 5 || !nb::try_cast<int>(parts[0], priors.layers) ||
        !nb::try_cast<int>(parts[1], priors.experts))
        throw std::invalid_argument("Priors are a tuple of layers, experts, and three tables.");
    if (priors.layers < 0 || priors.experts < 0) throw std::invalid_argument("Priors cannot have negative sizes.");
    const uint64_t rows = checked_multiply(uint64_t(priors.layers), uint64_t(priors.experts));
    priors.popularity = table<float>(parts[2], rows);
    priors.one_layer = table<uint16_t>(parts[3], checked_multiply(rows, uint64_t(priors.experts)));
    priors.two_layer = table<uint16_t>(parts[4], checked_multiply(rows, uint64_t(priors.experts)));
    return priors;
}

}  // namespace moecompress
