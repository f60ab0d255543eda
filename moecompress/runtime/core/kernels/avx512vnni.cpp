// AVX-512 with VNNI: one register holds the 16 rows of a tile; two chains of vpdpbusd per block, one for each plane of
// the activations. Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include <immintrin.h>

#include "kernels/simd.h"

namespace moecompress {
namespace {

__mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

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
};

// x >> right (or << -right) in each byte whose mask leaves only bits that came from the same byte.
template <int right>
inline __m512i moved(__m512i x) {
    if constexpr (right > 0) return _mm512_srli_epi16(x, right);
    if constexpr (right < 0) return _mm512_slli_epi16(x, -right);
    return x;
}

template <int bits>
struct Codes16 {
    __m512i quad[quads];

    explicit Codes16(const uint8_t* block) { add_plane<bits, 0>(block); }

    // Takes the planes of the remaining `left` bits; they begin at bit `shift` of the codes.
    template <int left, int shift>
    void add_plane(const uint8_t* plane) {
        constexpr int width = plane_width(left);
        for (int v = 0; v < width; ++v) {
            const __m512i packed = _mm512_loadu_si512(plane + v * vector_bytes);
            add_quads<width, shift, 0>(packed, v);
        }
        if constexpr (left > width) add_plane<left - width, shift + width>(plane + width * vector_bytes);
    }

    template <int width, int shift, int j>
    void add_quads(__m512i packed, int v) {
        __m512i& codes = quad[v + j * width];
        if constexpr (width == 8) {
            codes = packed;
        } else {
            const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << width) - 1) << shift));
            const __m512i part = moved<j * width - shift>(packed);
            if constexpr (shift == 0)
                codes = _mm512_and_si512(part, mask);
            else
                codes = _mm512_ternarylogic_epi32(codes, part, mask, 0xf8);  // codes | (part & mask)
        }
        if constexpr ((j + 1) * width < 8) add_quads<width, shift, j + 1>(packed, v);
    }

    static __m512i four(const int8_t* from) {
        int32_t bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        return _mm512_set1_epi32(bytes);
    }

    Floats16 dot(const int8_t* high, const int8_t* low) const {
        __m512i upper = _mm512_setzero_si512(), lower = _mm512_setzero_si512();
        for (int q = 0; q < quads; ++q) {
            upper = _mm512_dpbusd_epi32(upper, quad[q], four(high + q * 4));
            lower = _mm512_dpbusd_epi32(lower, quad[q], four(low + q * 4));
        }
        return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), lower))};
    }
};

__m512i magnitudes(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

__m512i quantized(__m512 x, __m512 scale) {
    const __m512 limit = _mm512_set1_ps(integer_limit);
    const __m512 ratio = _mm512_min_ps(_mm512_div_ps(x, scale), limit);
    return _mm512_cvtps_epi32(_mm512_max_ps(ratio, _mm512_sub_ps(_mm512_setzero_ps(), limit)));
}

void store_integers(__m512i integers, const Activations& x, int64_t at) {
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(integers, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x.high + at), _mm512_cvtepi32_epi8(upper));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x.low + at), _mm512_cvtepi32_epi8(integers));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x.integers + at), _mm512_cvtsepi32_epi16(integers));
}

void quantize_block(const float* values, int64_t count, const Activations& x, int64_t at) {
    const __m512 first = _mm512_maskz_loadu_ps(first_lanes(smaller_of(count, 16)), values);
    const __m512 second = _mm512_maskz_loadu_ps(first_lanes(count > 16 ? count - 16 : 0), values + 16);
    const __m512i largest = _mm512_max_epu32(magnitudes(first), magnitudes(second));
    const float scale = activation_scale(_mm512_reduce_max_epu32(largest));
    __m512i a = _mm512_setzero_si512(), b = _mm512_setzero_si512();
    if (scale > 0.0f) {
        a = quantized(first, _mm512_set1_ps(scale));
        b = quantized(second, _mm512_set1_ps(scale));
    }
    store_integers(a, x, at * block_columns);
    store_integers(b, x, at * block_columns + 16);
    x.scale[at] = scale;
    x.sum[at] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

void quantize(const Activations& x, int64_t first, int64_t last) {
    const int64_t blocks = x.blocks();
    for (int64_t token = first; token < last; ++token)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t start = block * block_columns;
            quantize_block(x.values + token * x.columns + start, smaller_of(block_columns, x.columns - start), x,
                           x.place(block, token));
        }
}

using Path = SimdPath<Floats16, ByteBlocks<Floats16, Codes16>>;

}  // namespace

const Kernels avx512vnni_kernels = {"avx512vnni",      quantize,  Path::multiply,  Path::silu_multiply,
                                    Path::exp_shifted, Path::dot, Path::add_scaled};

}  // namespace moecompress
#endif
