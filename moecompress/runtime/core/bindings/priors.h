// Tables of priors.safetensors from Python.
#pragma once

#include <nanobind/nanobind.h>

#include "predict/predictor.h"

namespace moecompress {

// From None, or (layers, experts, popularity, one_layer, two_layer) with the tables as bytes. Throws
// std::invalid_argument for tables of another size.
Priors parse_priors(const nanobind::handle& values);

}  // namespace moecompress
