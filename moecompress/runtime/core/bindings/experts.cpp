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
    const auto add = [&](const char* name, uint64_t prefill, uint64_t decode) {
        result[(std::string("prefill_") + name).c_str()] = prefill;
        result[(std::string("decode_") + name).c_str()] = decode;
    };
    const Lookups &prefill = values.of(Phase::prefill), &decode = values.of(Phase::decode);
    add("hits", prefill.hits, decode.hits);
    add("speculative_hits", prefill.speculative_hits, decode.speculative_hits);
    add("misses", prefill.misses, decode.misses);
    result["prefill_seconds_waited"] = prefill.seconds_waited;
    result["decode_seconds_waited"] = decode.seconds_waited;
    result["reads"] = values.reads;
    result["speculative_reads"] = values.speculative_reads;
    result["wasted_reads"] = values.wasted_reads;
    result["failed_speculative_reads"] = values.failed_speculative_reads;
    result["bytes_read"] = values.bytes_read;
    result["wasted_bytes"] = values.wasted_bytes;
    result["direct"] = direct;
    return result;
}

}  // namespace moecompress
