// What the bindings share: tables of experts from Python, and the store's counters to Python.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "store/expert_store.h"
#include "store/record.h"

namespace moecompress {

// (codec, bits, group size, rows, columns, offset, bytes)
using TensorTuple = std::tuple<std::string, int, int, int64_t, int64_t, uint64_t, uint64_t>;
// (offset, bytes, gate, up, down)
using ExpertTuple = std::tuple<uint64_t, uint64_t, TensorTuple, TensorTuple, TensorTuple>;
using LayerTuple = std::tuple<int, std::string, std::vector<ExpertTuple>>;  // (layer, file, experts)

// Throw std::invalid_argument for a codec without kernels; sizes are checked where they are used.
TensorEntry parse_tensor(const TensorTuple& values);
std::vector<ExpertLayer> parse_layers(const std::vector<LayerTuple>& layers);

nanobind::dict store_statistics(const StoreStatistics& values, bool direct);

}  // namespace moecompress
