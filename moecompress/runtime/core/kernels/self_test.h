// A path is compared with the scalar one before it is used: a wrong or forbidden instruction must not reach a model.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace moecompress {

// Runs every function of `path` on small inputs, in less than two milliseconds. Empty when all results are the scalar
// path's bit for bit, else a clause that says which are not: "its products of 3-bit codes differ from the scalar
// path's".
std::string self_test(const Kernels& path);

}  // namespace moecompress
