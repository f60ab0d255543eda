// Experts on disk: where each record lies, and how a record in memory is seen as three packed matrices.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace moecompress {

// A packed tensor at `offset` of a file or record.
struct TensorEntry {
    Codec codec = Codec::dense_f32;
    int bits = 0;
    int group_size = 0;
    int64_t rows = 0;
    int64_t columns = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;

    PackedMatrix at(const uint8_t* base) const { return {codec, bits, group_size, rows, columns, base + offset}; }
};

struct ExpertEntry {
    uint64_t offset = 0;  // of the record in its file
    uint64_t bytes = 0;
    TensorEntry gate, up, down;  // offsets within the record
};

// The experts of one decoder layer, in one file.
struct ExpertLayer {
    int layer = 0;
    std::string file;
    std::vector<ExpertEntry> experts;
};

struct FeedForward {
    PackedMatrix gate, up, down;

    bool present() const { return gate.data != nullptr; }
};

constexpr uint64_t record_header_bytes = 64;

// Throws std::invalid_argument, naming `what`, unless dimensions and codec are sane and `bytes` is what they need.
void check_tensor(const TensorEntry& entry, const std::string& what);

// The same for every record of a layer: alignment, order inside the record, place inside a file of `file_bytes`.
void check_layer(const ExpertLayer& layer, int64_t hidden, uint64_t file_bytes);

// The bytes after which gate, up and down are in memory when a record is read in up to three parts, each of whole pages.
// What is too small to be worth a read of its own belongs to the part that follows.
std::array<uint64_t, 3> part_ends(const ExpertEntry& entry);

// Throws ReadError unless the header of a record just read belongs to this layer and expert.
void check_header(const uint8_t* record, uint64_t bytes, int layer, int expert, const std::string& file);

}  // namespace moecompress
