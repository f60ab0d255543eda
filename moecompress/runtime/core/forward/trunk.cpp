#include "forward/trunk.h"

#include <cstring>
#include <map>
#include <stdexcept>

#include "store/checked.h"

namespace moecompress {

namespace {

// Bytes in memory: matrices as on disk, vectors as float32.
uint64_t memory_bytes(const TrunkEntry& entry) {
    const uint64_t bytes =
        entry.vector ? checked_multiply(uint64_t(entry.tensor.columns), sizeof(float)) : entry.tensor.bytes;
    return round_up(bytes, 64);
}

// float32 values of a bf16 vector, widened in place from the end.
void widen(uint8_t* data, int64_t count) {
    for (int64_t i = count - 1; i >= 0; --i) {
        uint16_t half;
        std::memcpy(&half, data + 2 * i, sizeof half);
        const uint32_t bits = uint32_t(half) << 16;
        std::memcpy(data + 4 * i, &bits, sizeof bits);
    }
}

using Files = std::map<std::string, File>;

// Opens the files and checks every entry against them, before anything is allocated.
Files open_files(const Folder& folder, const std::vector<TrunkEntry>& entries) {
    Files files;
    for (const TrunkEntry& entry : entries) {
        auto found = files.find(entry.file);
        if (found == files.end()) found = files.emplace(entry.file, folder.open_buffered(entry.file)).first;
        check_entry(entry, found->second.size());
    }
    return files;
}

// The tensors in memory by role; every one has to be taken.
class Roles {
public:
    Roles(const Files& files, const std::vector<TrunkEntry>& entries, uint8_t* memory) {
        for (const TrunkEntry& entry : entries) {
            files.at(entry.file).read(memory, entry.tensor.bytes, entry.tensor.offset);
            if (entry.vector && entry.tensor.codec == Codec::dense_bf16) widen(memory, entry.tensor.columns);
            if (!loaded_.emplace(entry.role, Loaded{&entry, memory}).second)
                throw std::invalid_argument("Trunk tensor " + entry.role + " is listed twice.");
            memory += memory_bytes(entry);
        }
    }

    bool has(const std::string& role) const { return loaded_.count(role) != 0; }

    PackedMatrix matrix(const std::string& role, int64_t rows, int64_t columns) {
        const Loaded tensor = take(role, false);
        const TensorEntry& entry = tensor.entry->tensor;
        const bool fits = (rows == 0 || entry.rows == rows) && (columns == 0 || entry.columns == columns);
        if (!fits) refuse(role, rows, columns);
        return {entry.codec, entry.bits, entry.group_size, entry.rows, entry.columns, tensor.data};
    }

    const float* vector(const std::string& role, int64_t count) {
        const Loaded tensor = take(role, true);
        if (tensor.entry->tensor.columns != count) refuse(role, 1, count);
        return reinterpret_cast<const float*>(tensor.data);
    }

    const float* optional_vector(const std::string& role, int64_t count) {
        return has(role) ? vector(role, count) : nullptr;
    }

    void check_all_taken() const {
        if (!loaded_.empty())
            throw std::invalid_argument("Trunk tensor " + loaded_.begin()->first + " has no place in this model.");
    }

private:
    struct Loaded {
        const TrunkEntry* entry;
        const uint8_t* data;
    };

    Loaded take(const std::string& role, bool vector) {
        const auto found = loaded_.find(role);
        if (found == loaded_.end() || found->second.entry->vector != vector)
            throw std::invalid_argument("The model needs a trunk tensor " + role + " that the artifact does not have.");
        const Loaded tensor = found->second;
        loaded_.erase(found);
        return tensor;
    }

    [[noreturn]] static void refuse(const std::string& role, int64_t rows, int64_t columns) {
        throw std::invalid_argument("Trunk tensor " + role + " does not have the shape [" + std::to_string(rows) +
                                    ", " + std::to_string(columns) + "] (0: any) that the configuration asks for.");
    }

    std::map<std::string, Loaded> loaded_;
};

FeedForward feed_forward(Roles& roles, const std::string& prefix, int64_t hidden) {
    FeedForward weights;
    weights.gate = roles.matrix(prefix + "gate", 0, hidden);
    weights.up = roles.matrix(prefix + "up", weights.gate.rows, hidden);
    weights.down = roles.matrix(prefix + "down", hidden, weights.gate.rows);
    return weights;
}

void bind_attention(Roles& roles, const ModelConfig& config, const std::string& layer, LayerWeights& weights) {
    const int64_t queries = config.query_size(), keys = config.key_value_size();
    weights.attention_norm = roles.vector(layer + "attention_norm", config.hidden);
    weights.q = roles.matrix(layer + "q", queries, config.hidden);
    weights.k = roles.matrix(layer + "k", keys, config.hidden);
    weights.v = roles.matrix(layer + "v", keys, config.hidden);
    weights.o = roles.matrix(layer + "o", config.hidden, queries);
    weights.q_bias = roles.optional_vector(layer + "q_bias", queries);
    weights.k_bias = roles.optional_vector(layer + "k_bias", keys);
    weights.v_bias = roles.optional_vector(layer + "v_bias", keys);
    weights.o_bias = roles.optional_vector(layer + "o_bias", config.hidden);
    if (config.head_norm == HeadNorm::none) return;
    const bool whole = config.head_norm == HeadNorm::full;
    weights.q_norm = roles.vector(layer + "q_norm", whole ? queries : config.head_size);
    weights.k_norm = roles.vector(layer + "k_norm", whole ? keys : config.head_size);
}

LayerWeights bind_layer(Roles& roles, const ModelConfig& config, size_t index) {
    const std::string layer = "layers." + std::to_string(index) + ".";
    LayerWeights weights;
    bind_attention(roles, config, layer, weights);
    weights.ffn_norm = roles.vector(layer + "ffn_norm", config.hidden);
    if (!config.layers[index].sparse) {
        weights.dense = feed_forward(roles, layer + "ffn.", config.hidden);
        return weights;
    }
    weights.router = roles.matrix(layer + "router", 0, config.hidden);
    if (roles.has(layer + "shared.gate")) weights.shared = feed_forward(roles, layer + "shared.", config.hidden);
    if (roles.has(layer + "shared_router"))
        weights.shared_router = roles.matrix(layer + "shared_router", 1, config.hidden);
    return weights;
}

}  // namespace

void check_entry(const TrunkEntry& entry, uint64_t file_bytes) {
    const TensorEntry& tensor = entry.tensor;
    const std::string what = "Trunk tensor " + entry.role;
    if (!entry.vector) {
        check_tensor(tensor, what);
    } else {
        const uint64_t size = tensor.codec == Codec::dense_bf16 ? 2 : 4;
        const bool plain = tensor.codec != Codec::affine && tensor.rows == 1 && tensor.columns > 0;
        if (!plain || tensor.bytes != checked_multiply(uint64_t(tensor.columns), size))
            throw std::invalid_argument(what + " is not a plain vector of the length it claims.");
    }
    if (tensor.offset % 64 != 0) throw std::invalid_argument(what + " does not begin on a line of 64 bytes.");
    if (checked_add(tensor.offset, tensor.bytes) > file_bytes)
        throw std::invalid_argument(what + " lies outside " + entry.file +
                                    ", which is too short. Restore the artifact.");
}

uint64_t Trunk::bytes(const std::vector<TrunkEntry>& entries) {
    uint64_t total = 0;
    for (const TrunkEntry& entry : entries) total = checked_add(total, memory_bytes(entry));
    return total;
}

Trunk load_trunk(const Folder& folder, const ModelConfig& config, const std::vector<TrunkEntry>& entries) {
    const Files files = open_files(folder, entries);
    Trunk trunk;
    trunk.memory = Region(Trunk::bytes(entries), true);
    Roles roles(files, entries, trunk.memory.data());
    trunk.embedding = roles.matrix("embedding", config.vocabulary, config.hidden);
    trunk.head = roles.has("head") ? roles.matrix("head", config.vocabulary, config.hidden) : trunk.embedding;
    trunk.final_norm = roles.vector("final_norm", config.hidden);
    for (size_t index = 0; index < config.layers.size(); ++index)
        trunk.layers.push_back(bind_layer(roles, config, index));
    roles.check_all_taken();
    return trunk;
}

}  // namespace moecompress
