// Eight quads of bytes in an AVX2 register.
#pragma once

#include "kernels/floats8.h"

namespace moecompress {
namespace {

struct Bytes8 {
    __m256i value;

    static Bytes8 load(const void* from) { return {_mm256_loadu_si256(static_cast<const __m256i*>(from))}; }
    void store(void* to) const { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }
    template <int right>
    Bytes8 moved() const {
        if constexpr (right > 0) return {_mm256_srli_epi16(value, right)};
        if constexpr (right < 0) return {_mm256_slli_epi16(value, -right)};
        return *this;
    }
    template <int mask>
    static Bytes8 masked(Bytes8 a) {
        return {_mm256_and_si256(a.value, _mm256_set1_epi8(static_cast<char>(mask)))};
    }
    template <int mask>
    static Bytes8 merged(Bytes8 a, Bytes8 b) {
        return {_mm256_or_si256(a.value, masked<mask>(b).value)};
    }
};

// Four bytes, or two 16-bit integers, in every lane of 32 bits.
inline __m256i every_lane(const void* from) {
    int32_t bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

}  // namespace
}  // namespace moecompress
