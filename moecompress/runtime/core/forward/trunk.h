// Weights that are always in memory: everything but the routed experts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "forward/config.h"
#include "store/file.h"
#include "store/record.h"
#include "store/region.h"

namespace moecompress {

// One tensor of the trunk: what it is, and where. Roles: embedding, head (absent: tied to the embedding), final_norm,
// and layers.N.* with attention_norm, q, k, v, o, their biases q_bias ..., q_norm, k_norm, ffn_norm; router,
// shared.gate, shared.up, shared.down, shared_router; ffn.gate, ffn.up, ffn.down. Vectors have one row and are dense.
struct TrunkEntry {
    std::string role;
    std::string file;
    bool vector = false;
    TensorEntry tensor;
};

struct LayerWeights {
    const float* attention_norm = nullptr;
    PackedMatrix q, k, v, o;
    const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;
    const float *q_norm = nullptr, *k_norm = nullptr;
    const float* ffn_norm = nullptr;
    PackedMatrix router;         // [experts, hidden]; data is null in dense layers
    FeedForward shared;          // runs for every token beside the experts, if present
    PackedMatrix shared_router;  // [1, hidden]: its sigmoid scales the shared expert, if present
    FeedForward dense;           // of layers without experts
};

struct Trunk {
    PackedMatrix embedding, head;
    const float* final_norm = nullptr;
    std::vector<LayerWeights> layers;
    Region memory;

    static uint64_t bytes(const std::vector<TrunkEntry>& entries);
};

// Throws std::invalid_argument unless the entry's shape, codec and bytes agree and lie within `file_bytes`.
void check_entry(const TrunkEntry& entry, uint64_t file_bytes);

// Reads the trunk. Throws std::invalid_argument for roles that are missing, unknown, doubled or of the wrong shape, and
// for entries outside their file; ReadError when reading fails.
Trunk load_trunk(const Folder& folder, const ModelConfig& config, const std::vector<TrunkEntry>& entries);

}  // namespace moecompress
