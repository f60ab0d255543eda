#include "store/record.h"

#include <cstring>
#include <stdexcept>

#include "store/checked.h"
#include "store/errors.h"
#include "store/file.h"

namespace moecompress {

namespace {

constexpr int64_t largest_dimension = int64_t(1) << 31;
constexpr uint64_t smallest_part = uint64_t(128) << 10;

struct RecordHeader {
    char magic[4];
    uint16_t version;
    uint16_t projections;
    uint32_t layer;
    uint32_t expert;
    uint64_t payload_bytes;
    uint32_t crc32;
};
static_assert(sizeof(RecordHeader) <= record_header_bytes);

[[noreturn]] void refuse(const std::string& what, const std::string& why) {
    throw std::invalid_argument(what + ": " + why + ". The artifact is damaged or was not written by moecompress.");
}

bool codec_is_known(const TensorEntry& entry) {
    if (entry.codec == Codec::dense_bf16 || entry.codec == Codec::dense_f32) return true;
    const bool group = entry.group_size == 32 || entry.group_size == 64 || entry.group_size == 128;
    return entry.codec == Codec::affine && entry.bits >= 1 && entry.bits <= 8 && group;
}

void check_expert(const ExpertEntry& entry, int64_t hidden, const std::string& what) {
    const TensorEntry* const parts[] = {&entry.gate, &entry.up, &entry.down};
    uint64_t end = record_header_bytes;
    for (const TensorEntry* part : parts) {
        check_tensor(*part, what);
        if (part->offset % 64 != 0 || part->offset < end) refuse(what, "its matrices overlap or are not aligned");
        end = checked_add(part->offset, part->bytes);
    }
    if (end > entry.bytes) refuse(what, "its matrices are longer than its record");
    const bool chained = entry.gate.rows == entry.up.rows && entry.down.columns == entry.gate.rows;
    if (!chained || entry.gate.columns != hidden || entry.up.columns != hidden || entry.down.rows != hidden)
        refuse(what, "its matrices do not fit each other or the hidden size " + std::to_string(hidden));
}

}  // namespace

void check_tensor(const TensorEntry& entry, const std::string& what) {
    const bool sane = entry.rows > 0 && entry.columns > 0 && entry.rows < largest_dimension &&
                      entry.columns < largest_dimension &&
                      checked_multiply(uint64_t(entry.rows), uint64_t(entry.columns)) < uint64_t(1) << 48;
    if (!sane || !codec_is_known(entry)) refuse(what, "its shape or codec is not possible");
    if (uint64_t(entry.at(nullptr).bytes()) != entry.bytes)
        refuse(what, std::to_string(entry.bytes) + " bytes are listed, its shape and codec need " +
                         std::to_string(entry.at(nullptr).bytes()));
}

void check_layer(const ExpertLayer& layer, int64_t hidden, uint64_t file_bytes) {
    if (layer.experts.empty()) refuse("Layer " + std::to_string(layer.layer), "it has no experts");
    for (size_t index = 0; index < layer.experts.size(); ++index) {
        const ExpertEntry& entry = layer.experts[index];
        const std::string what = "Expert " + std::to_string(index) + " of layer " + std::to_string(layer.layer);
        if (entry.offset % io_alignment != 0 || entry.bytes % io_alignment != 0 || entry.bytes == 0)
            refuse(what, "its record is not aligned to 4096 bytes");
        if (checked_add(entry.offset, entry.bytes) > file_bytes) refuse(what, "its record lies outside " + layer.file);
        check_expert(entry, hidden, what);
    }
}

std::array<uint64_t, 3> part_ends(const ExpertEntry& entry) {
    std::array<uint64_t, 3> ends = {round_up(entry.gate.offset + entry.gate.bytes, io_alignment),
                                    round_up(entry.up.offset + entry.up.bytes, io_alignment), entry.bytes};
    if (ends[2] < ends[1] + smallest_part) ends[1] = ends[2];
    if (ends[1] < ends[0] + smallest_part || ends[0] < smallest_part) ends[0] = ends[1];
    return ends;
}

void check_header(const uint8_t* record, uint64_t bytes, int layer, int expert, const std::string& file) {
    RecordHeader header;
    std::memcpy(&header, record, sizeof header);
    const bool ours = std::memcmp(header.magic, "MCXR", 4) == 0 && header.version == 1 && header.projections == 3 &&
                      header.payload_bytes <= bytes - record_header_bytes;
    if (!ours || header.layer != uint32_t(layer) || header.expert != uint32_t(expert))
        throw ReadError("The record of expert " + std::to_string(expert) + " of layer " + std::to_string(layer) +
                        " in " + file +
                        " has a wrong header; run `moecompress verify` on the artifact and restore it.");
}

}  // namespace moecompress
