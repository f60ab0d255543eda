// Eight float lanes in an AVX2 register with FMA and F16C, for the files compiled with those flags.
#pragma once

#include <immintrin.h>

#include "kernels/exponential.h"

namespace moecompress {
namespace {

inline __m256i first_lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

struct Floats8 {
    static constexpr int rows = 8;
    static constexpr int dense_tokens = 1;
    __m256 value;

    static Floats8 all(float c) { return {_mm256_set1_ps(c)}; }
    static Floats8 load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Floats8 load_part(const float* from, int64_t count) {
        return {_mm256_maskload_ps(from, first_lanes(count))};
    }
    static Floats8 from_half(const uint8_t* from) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static Floats8 from_bf16(const uint8_t* from) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
    }
    static Floats8 from_int16(const int16_t* from) {
        const __m128i integers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(integers))};
    }
    static Floats8 from_int8(const int8_t* from) {
        const __m128i integers = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers))};
    }
    static Floats8 from_integer(int32_t n) { return {_mm256_cvtepi32_ps(_mm256_set1_epi32(n))}; }
    void store(float* to) const { _mm256_storeu_ps(to, value); }
    void store_part(float* to, int64_t count) const { _mm256_maskstore_ps(to, first_lanes(count), value); }

    static Floats8 plus(Floats8 a, Floats8 b) { return {_mm256_add_ps(a.value, b.value)}; }
    static Floats8 minus(Floats8 a, Floats8 b) { return {_mm256_sub_ps(a.value, b.value)}; }
    static Floats8 times(Floats8 a, Floats8 b) { return {_mm256_mul_ps(a.value, b.value)}; }
    static Floats8 divided(Floats8 a, Floats8 b) { return {_mm256_div_ps(a.value, b.value)}; }
    static Floats8 fused(Floats8 a, Floats8 b, Floats8 c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
    static Floats8 larger(Floats8 a, Floats8 b) { return {_mm256_max_ps(a.value, b.value)}; }
    static Floats8 smaller(Floats8 a, Floats8 b) { return {_mm256_min_ps(a.value, b.value)}; }
    static Floats8 first_of(Floats8 a, Floats8 b, int64_t count) {
        return {_mm256_blendv_ps(b.value, a.value, _mm256_castsi256_ps(first_lanes(count)))};
    }

    static __m256 power_of_two(__m256i n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
    }
    static Floats8 times_power(Floats8 p, Floats8 shifted) {
        const __m256i offset = _mm256_castps_si256(_mm256_set1_ps(round_shift));
        const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted.value), offset);
        const __m256i half = _mm256_srai_epi32(n, 1);
        const __m256 scaled = _mm256_mul_ps(p.value, power_of_two(half));
        return {_mm256_mul_ps(scaled, power_of_two(_mm256_sub_epi32(n, half)))};
    }

    // Halves added: 8, 4, 2, 1.
    static float folded(const Floats8 (&sums)[2]) {
        const __m256 eight = _mm256_add_ps(sums[0].value, sums[1].value);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    // The same of four sums, in a quarter of the steps each.
    static void folded(const Floats8 (&sums)[4][2], float* out) {
        const auto halves = [&](int i, int j) {
            const __m256 a = _mm256_add_ps(sums[i][0].value, sums[i][1].value);
            const __m256 b = _mm256_add_ps(sums[j][0].value, sums[j][1].value);
            return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
        };
        const __m256 ab = halves(0, 1), cd = halves(2, 3);
        const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
        const __m256 one = _mm256_add_ps(two, _mm256_movehdup_ps(two));  // a . c . | b . d .
        const __m128 ac = _mm256_castps256_ps128(one), bd = _mm256_extractf128_ps(one, 1);
        const __m128 abcd = _mm_shuffle_ps(ac, bd, 0x88);  // a c b d
        _mm_storeu_ps(out, _mm_shuffle_ps(abcd, abcd, 0xd8));
    }
};

}  // namespace
}  // namespace moecompress
