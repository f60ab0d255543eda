// AVX-512 with VNNI: one register holds the 16 rows of a tile; two chains of vpdpbusd per block, one for each plane of
// the activations. Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include "kernels/bytes16.h"
#include "kernels/simd.h"
#include "kernels/simd_bytes.h"

namespace moecompress {
namespace {

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

using Path = SimdPath<Floats16, ByteBlocks<Floats16, Bytes16>>;

}  // namespace

const Kernels avx512vnni_kernels = {
    "avx512vnni", quantize,         Path::multiply, Path::silu_multiply, Path::exp_shifted,
    Path::dot,    Path::add_scaled, Path::row_dots, Path::add_rows,
};

}  // namespace moecompress
#endif
