// Where things lie inside a packed affine tile, and exact conversions of 16-bit floats.
//
// Everything here is internal to one object file (anonymous namespace): the instruction-set files are compiled with
// other flags, and a shared copy of an inline function could carry their instructions to a processor without them.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace moecompress {
namespace {

constexpr int64_t header_bytes = 64;  // 16 fp16 scales, then 16 fp16 minima
constexpr int quads = 8;              // a block is 8 quads of 4 columns
constexpr int64_t vector_bytes = 64;  // 16 rows x 4 columns, one byte each

// Width of the first (lowest) plane of codes of this many bits: the largest power of two that fits.
constexpr int plane_width(int bits) { return bits >= 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : 1; }

constexpr int64_t block_bytes(int bits) { return vector_bytes * bits; }

inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of a tile that exist; the others are padding.
inline int64_t rows_in_tile(const PackedMatrix& w, int64_t tile) {
    return smaller_of(tile_rows, w.rows - tile * tile_rows);
}

inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline uint16_t load_u16(const uint8_t* from) {
    uint16_t value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline float bf16_to_float(uint16_t value) { return from_bits(static_cast<uint32_t>(value) << 16); }

// Exact, subnormals included; NaNs become quiet as F16C makes them.
inline float half_to_float(uint16_t value) {
    const uint32_t sign = static_cast<uint32_t>(value & 0x8000) << 16;
    const uint32_t exponent = (value >> 10) & 31;
    const uint32_t fraction = value & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | (fraction ? 0x400000 | fraction << 13 : 0));
    if (exponent != 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return from_bits(sign | to_bits(magnitude));
}

constexpr float integer_limit = 32512.0f;  // 127 * 256: both planes of an activation stay within int8

// Scale of a block of activations whose largest magnitude has these bits (magnitudes order like their bits, infinities
// and NaNs above all others). The integers are all zero when the scale is zero or NaN.
inline float activation_scale(uint32_t largest) {
    return largest < 0x7f800000 ? from_bits(largest) / integer_limit : from_bits(0x7fc00000);
}

}  // namespace
}  // namespace moecompress
