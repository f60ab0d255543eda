// Sixteen quads of bytes in an AVX-512 register, multiplied by VNNI.
#pragma once

#include "kernels/floats16.h"

namespace moecompress {
namespace {

struct Bytes16 {
    using Sums = __m512i;
    static constexpr int offset = 0;
    static constexpr int panel_tokens = 8;
    __m512i value;

    static Bytes16 load(const void* from) { return {_mm512_loadu_si512(from)}; }
    void store(void* to) const { _mm512_storeu_si512(to, value); }
    template <int right>
    Bytes16 moved() const {
        if constexpr (right > 0) return {_mm512_srli_epi16(value, right)};
        if constexpr (right < 0) return {_mm512_slli_epi16(value, -right)};
        return *this;
    }
    template <int mask>
    static Bytes16 masked(Bytes16 a) {
        return {_mm512_and_si512(a.value, _mm512_set1_epi8(static_cast<char>(mask)))};
    }
    template <int mask>
    static Bytes16 merged(Bytes16 a, Bytes16 b) {  // 0xf8: a | (b & mask)
        return {_mm512_ternarylogic_epi32(a.value, b.value, _mm512_set1_epi8(static_cast<char>(mask)), 0xf8)};
    }

    static Sums zero() { return _mm512_setzero_si512(); }
    static __m512i four(const int8_t* from) {
        int32_t bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        return _mm512_set1_epi32(bytes);
    }
    static Sums dot(Sums sums, Bytes16 codes, __m512i four) { return _mm512_dpbusd_epi32(sums, codes.value, four); }
    static Floats16 joined(Sums upper, Sums lower, int32_t) {
        return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), lower))};
    }
};

}  // namespace
}  // namespace moecompress
