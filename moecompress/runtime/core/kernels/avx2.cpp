// AVX2 with FMA and F16C: a register holds 8 rows of a tile. Codes of at most 7 bits go through vpmaddubsw with each
// plane of the activations, adding as many 16-bit products as cannot overflow; codes of 8 bits are widened first.
// Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include <immintrin.h>

#include "kernels/simd.h"

namespace moecompress {
namespace {

__m256i first_lanes(int64_t count) {
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
};

// x >> right (or << -right) in each byte whose mask leaves only bits that came from the same byte.
template <int right>
inline __m256i moved(__m256i x) {
    if constexpr (right > 0) return _mm256_srli_epi16(x, right);
    if constexpr (right < 0) return _mm256_slli_epi16(x, -right);
    return x;
}

// Four bytes, or two 16-bit integers, in every lane of 32 bits.
__m256i every_lane(const void* from) {
    int32_t bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

// Quads whose products fit together in 16 bits: (2^bits - 1) * 128 * 2 each, at most 32767 in all.
constexpr int quads_together(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }
static_assert(15 * 256 * 8 <= 32767 && 31 * 256 * 4 <= 32767 && 63 * 256 * 2 <= 32767 && 127 * 256 <= 32767);

template <int bits>
struct Codes8 {
    __m256i quad[quads];

    explicit Codes8(const uint8_t* block) { add_plane<bits, 0>(block); }

    // Takes the planes of the remaining `left` bits; they begin at bit `shift` of the codes.
    template <int left, int shift>
    void add_plane(const uint8_t* plane) {
        constexpr int width = plane_width(left);
        for (int v = 0; v < width; ++v) {
            const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plane + v * vector_bytes));
            add_quads<width, shift, 0>(packed, v);
        }
        if constexpr (left > width) add_plane<left - width, shift + width>(plane + width * vector_bytes);
    }

    template <int width, int shift, int j>
    void add_quads(__m256i packed, int v) {
        __m256i& codes = quad[v + j * width];
        const __m256i mask = _mm256_set1_epi8(static_cast<char>(((1 << width) - 1) << shift));
        const __m256i part = _mm256_and_si256(moved<j * width - shift>(packed), mask);
        codes = shift == 0 ? part : _mm256_or_si256(codes, part);
        if constexpr ((j + 1) * width < 8) add_quads<width, shift, j + 1>(packed, v);
    }

    __m256i plane_dot(const int8_t* plane) const {
        constexpr int together = quads_together(bits);
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i sum = _mm256_setzero_si256();
        for (int first = 0; first < quads; first += together) {
            __m256i pairs = _mm256_maddubs_epi16(quad[first], every_lane(plane + first * 4));
            for (int q = first + 1; q < first + together; ++q)
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(quad[q], every_lane(plane + q * 4)));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        return sum;
    }

    Floats8 dot(const int8_t* high, const int8_t* low) const {
        const __m256i upper = _mm256_slli_epi32(plane_dot(high), 8);
        return {_mm256_cvtepi32_ps(_mm256_add_epi32(upper, plane_dot(low)))};
    }
};

template <>
struct Codes8<8> {
    __m256i quad[quads];

    explicit Codes8(const uint8_t* block) {
        for (int q = 0; q < quads; ++q)
            quad[q] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + q * vector_bytes));
    }

    // 16 activations as int16 in the order 0 2 1 3 of every quad: even columns, then odd ones.
    static void even_then_odd(const int8_t* high, const int8_t* low, int16_t* out) {
        const __m256i upper = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
        const __m256i lower = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
        const __m256i integers = _mm256_add_epi16(_mm256_slli_epi16(upper, 8), lower);
        const __m256i ordered = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(integers, 0xd8), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), ordered);
    }

    Floats8 dot(const int8_t* high, const int8_t* low) const {
        alignas(32) int16_t activations[block_columns];
        even_then_odd(high, low, activations);
        even_then_odd(high + 16, low + 16, activations + 16);
        const __m256i low_bytes = _mm256_set1_epi16(255);
        __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
        for (int q = 0; q < quads; ++q) {
            const __m256i even_codes = _mm256_and_si256(quad[q], low_bytes);
            const __m256i odd_codes = _mm256_srli_epi16(quad[q], 8);
            even = _mm256_add_epi32(even, _mm256_madd_epi16(even_codes, every_lane(activations + q * 4)));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(odd_codes, every_lane(activations + q * 4 + 2)));
        }
        return {_mm256_cvtepi32_ps(_mm256_add_epi32(even, odd))};
    }
};

__m256i integers_of(const float* x, __m256 scale) {
    const __m256 limit = _mm256_set1_ps(integer_limit);
    const __m256 ratio = _mm256_min_ps(_mm256_div_ps(_mm256_loadu_ps(x), scale), limit);
    return _mm256_cvtps_epi32(_mm256_max_ps(ratio, _mm256_sub_ps(_mm256_setzero_ps(), limit)));
}

uint32_t largest_bits(const float* x) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i eight = _mm256_setzero_si256();
    for (int k = 0; k < block_columns; k += 8) {
        const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + k));
        eight = _mm256_max_epu32(eight, _mm256_and_si256(bits, magnitude));
    }
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
}

int32_t sum_of(__m256i x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

// The low byte of each of 8 integers.
void store_low_bytes(__m256i integers, int8_t* out) {
    const __m256i bytes = _mm256_and_si256(integers, _mm256_set1_epi32(255));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}

void quantize_block(const float* values, const Activations& x, int64_t at) {
    const float scale = activation_scale(largest_bits(values));
    __m256i sum = _mm256_setzero_si256();
    for (int k = 0; k < block_columns; k += 8) {
        __m256i integers = _mm256_setzero_si256();
        if (scale > 0.0f) integers = integers_of(values + k, _mm256_set1_ps(scale));
        const __m256i upper = _mm256_srai_epi32(_mm256_add_epi32(integers, _mm256_set1_epi32(128)), 8);
        store_low_bytes(upper, x.high + at * block_columns + k);
        store_low_bytes(integers, x.low + at * block_columns + k);
        sum = _mm256_add_epi32(sum, integers);
    }
    x.scale[at] = scale;
    x.sum[at] = sum_of(sum);
}

void quantize(const Activations& x, int64_t first, int64_t last) {
    const int64_t blocks = x.blocks();
    for (int64_t token = first; token < last; ++token)
        for (int64_t block = 0; block < blocks; ++block) {
            const float* values = x.values + token * x.columns + block * block_columns;
            const int64_t left = x.columns - block * block_columns;
            float padded[block_columns] = {};
            if (left < block_columns) std::memcpy(padded, values, left * sizeof(float));
            quantize_block(left < block_columns ? padded : values, x, token * blocks + block);
        }
}

using Path = SimdPath<Floats8, Codes8>;

}  // namespace

const Kernels avx2_kernels = {"avx2",    quantize,        Path::multiply, Path::silu_multiply, Path::exp_shifted,
                              Path::dot, Path::add_scaled};

}  // namespace moecompress
#endif
