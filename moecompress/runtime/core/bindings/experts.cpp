#include "bindings/experts.h"

#include <stdexcept>
#include <utility>

namespace moecompress {

TensorEntry parse_tensor(const TensorTuple& values) {
    TensorEntry entry;
    std::string codec;
    std::tie(codec, entry.bits, entry.group_size, entry.rows, entry.columns, entry.offset, entry.bytes) = values;
    if (codec != "dense_bf16" && codec != "dense_f32" && codec != "affine")
        throw std::invalid_argument("The engine has no kernel for the codec '" + codec + "'.");
    entry.codec = codec == "affine" ? Codec::affine : codec == "dense_f32" ? Codec::dense_f32 : Codec::dense_bf16;
    return entry;
}

std::vector<ExpertLayer> parse_layers(const std::vector<LayerTuple>& layers) {
    std::vector<ExpertLayer> parsed;
    for (const auto& [layer, file, experts] : layers) {
        ExpertLayer table{layer, file, {}};
        for (const auto& [offset, bytes, gate, up, down] : experts)
            table.experts.push_back({offset, bytes, parse_tensor(gate), parse_tensor(up), parse_tensor(down)});
        parsed.push_back(std::move(table));
    }
    return parsed;
}

nanobind::dict store_statistics(const StoreStatistics& values, bool direct) {
    nanobind::dict result;
    result["prefill_hits"] = values.hits[int(Phase::prefill)];
    result["prefill_misses"] = values.misses[int(Phase::prefill)];
    result["decode_hits"] = values.hits[int(Phase::decode)];
    result["decode_misses"] = values.misses[int(Phase::decode)];
    result["reads"] = values.reads;
    result["bytes_read"] = values.bytes_read;
    result["seconds_waited"] = values.seconds_waited;
    result["direct"] = direct;
    return result;
}

}  // namespace moecompress
