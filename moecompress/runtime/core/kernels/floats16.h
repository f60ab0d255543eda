// Sixteen float lanes in an AVX-512 register, for the files compiled with those flags.
#pragma once

#include <immintrin.h>

#include "kernels/exponential.h"

namespace moecompress {
namespace {

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

struct Floats16 {
    static constexpr int rows = 16;
    static constexpr int dense_tokens = 4;
    __m512 value;

    static Floats16 all(float c) { return {_mm512_set1_ps(c)}; }
    static Floats16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Floats16 load_part(const float* from, int64_t count) {
        return {_mm512_maskz_loadu_ps(first_lanes(count), from)};
    }
    static Floats16 from_half(const uint8_t* from) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
    }
    static Floats16 from_bf16(const uint8_t* from) {
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
    }
    static Floats16 from_int16(const int16_t* from) {
        const __m256i integers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(integers))};
    }
    static Floats16 from_int8(const int8_t* from) {
        const __m128i integers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(integers))};
    }
    static Floats16 from_integer(int32_t n) { return {_mm512_cvtepi32_ps(_mm512_set1_epi32(n))}; }
    void store(float* to) const { _mm512_storeu_ps(to, value); }
    void store_part(float* to, int64_t count) const { _mm512_mask_storeu_ps(to, first_lanes(count), value); }

    static Floats16 plus(Floats16 a, Floats16 b) { return {_mm512_add_ps(a.value, b.value)}; }
    static Floats16 minus(Floats16 a, Floats16 b) { return {_mm512_sub_ps(a.value, b.value)}; }
    static Floats16 times(Floats16 a, Floats16 b) { return {_mm512_mul_ps(a.value, b.value)}; }
    static Floats16 divided(Floats16 a, Floats16 b) { return {_mm512_div_ps(a.value, b.value)}; }
    static Floats16 fused(Floats16 a, Floats16 b, Floats16 c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
    static Floats16 larger(Floats16 a, Floats16 b) { return {_mm512_max_ps(a.value, b.value)}; }
    static Floats16 smaller(Floats16 a, Floats16 b) { return {_mm512_min_ps(a.value, b.value)}; }
    static Floats16 first_of(Floats16 a, Floats16 b, int64_t count) {
        return {_mm512_mask_blend_ps(first_lanes(count), b.value, a.value)};
    }

    static __m512 power_of_two(__m512i n) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
    }
    static Floats16 times_power(Floats16 p, Floats16 shifted) {
        const __m512i offset = _mm512_castps_si512(_mm512_set1_ps(round_shift));
        const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted.value), offset);
        const __m512i half = _mm512_srai_epi32(n, 1);
        const __m512 scaled = _mm512_mul_ps(p.value, power_of_two(half));
        return {_mm512_mul_ps(scaled, power_of_two(_mm512_sub_epi32(n, half)))};
    }

    // Halves added: 8, 4, 2, 1.
    static float folded(const Floats16 (&sums)[1]) {
        const __m512 all = sums[0].value;
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static void folded(const Floats16 (&sums)[4][1], float* out) {
        for (int i = 0; i < 4; ++i) out[i] = folded(sums[i]);
    }
};

}  // namespace
}  // namespace moecompress
