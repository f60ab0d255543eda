// Tables of priors.safetensors from Python.
#pragma once

#include <nanobind/nanobind.h>

#include "predict/predictor.h"

namespace moecompress {

// From None, or a mapping of `popularity` float32 [layers, experts], `one_layer` and `two_layer` uint16 (the bits of half
// floats) [layers, experts, experts]. Throws std::invalid_argument for other types and shapes.
Priors parse_priors(const nanobind::handle& values);

}  // namespace moecompress
