// float16 by integer arithmetic: the same bits on every processor, no instruction set needed.
#pragma once

#include <cstdint>
#include <cstring>

namespace moecompress {

constexpr float largest_half = 65504.0f;

inline uint32_t float_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float bits_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Exact for every finite half, subnormal ones included: shift the fields into place, then repair the exponent's bias.
inline float half_to_float(uint16_t half) {
    const float magnitude = bits_float(uint32_t(half & 0x7fff) << 13) * 0x1p112f;
    return bits_float(float_bits(magnitude) | uint32_t(half & 0x8000) << 16);
}

// Nearest half, ties to even; beyond the largest half it saturates, NaN becomes a quiet NaN.
inline uint16_t float_to_half(float value) {
    const uint32_t sign = float_bits(value) >> 16 & 0x8000;
    uint32_t bits = float_bits(value) & 0x7fffffff;
    if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (bits > 0x477fe000) return uint16_t(sign | 0x7bff);  // above 65504
    if (bits < 0x38800000) {                                // below 2^-14: a multiple of 2^-24
        const float shifted = bits_float(bits) + 0.5f;      // the addition rounds at 2^-24
        return uint16_t(sign | (float_bits(shifted) - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);  // rounds at the 13 bits that go
    return uint16_t(sign | ((bits >> 13) - 0x1c000));
}

}  // namespace moecompress
