// AVX2 with FMA and F16C: a register holds 8 rows of a tile. One token's products of codes of at most 6 bits go through
// vpmaddubsw with each plane of the activations, adding as many 16-bit sums as cannot overflow; wider codes, and the
// panels of several tokens, are 16-bit integers that vpmaddwd multiplies with the whole activations.
// Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include "kernels/bytes8.h"
#include "kernels/simd.h"
#include "kernels/simd_bytes.h"

namespace moecompress {
namespace {

constexpr int parts = 2;             // of a tile's rows
constexpr int64_t part_bytes = 32;   // of a vector of codes

inline __m256i load(const void* from) { return Bytes8::load(from).value; }

inline void store(void* to, __m256i x) { Bytes8{x}.store(to); }

// Makes the compiler finish these sums here: it would gather all products first and run out of registers.
inline void settle([[maybe_unused]] __m256i (&sums)[parts]) {
#if defined(__AVX2__)  // not where the tests emulate the instructions
    asm volatile("" : "+x"(sums[0]), "+x"(sums[1]));
#endif
}

// One quad's codes of rows 8 * part ... Those of 3 bits are put together for quads q and q + 4 at once, in the halves
// of every byte: the same shift brings the upper bits of both into place.
template <int bits, int quad>
inline __m256i quad_codes(const uint8_t* block, int part) {
    const uint8_t* const rows = block + part * part_bytes;
    if constexpr (bits != 3) return quad_bits<Bytes8, bits, 0, quad>(rows).value;
    constexpr int first = quad % 4;
    const Bytes8 lower = Bytes8::load(rows + first % 2 * vector_bytes).moved<first / 2 * 2>();
    const Bytes8 upper = Bytes8::load(rows + 2 * vector_bytes).moved<first - 2>();
    const Bytes8 two = Bytes8::merged<0x44>(Bytes8::masked<0x33>(lower), upper);
    return Bytes8::masked<0x07>(two.moved<quad / 4 * 4>()).value;
}

// The first and the last two of every four bytes as 16-bit integers.
inline __m256i first_two(__m256i codes) {
    return _mm256_shuffle_epi8(codes, _mm256_set_epi32(0x800d800c, 0x80098008, 0x80058004, 0x80018000,  //
                                                       0x800d800c, 0x80098008, 0x80058004, 0x80018000));
}
inline __m256i last_two(__m256i codes) {
    return _mm256_shuffle_epi8(codes, _mm256_set_epi32(0x800f800e, 0x800b800a, 0x80078006, 0x80038002,  //
                                                       0x800f800e, 0x800b800a, 0x80078006, 0x80038002));
}

// The order of quads in which those that share a vector of digits follow each other.
constexpr int in_pairs(int step) { return step % 2 * 4 + step / 2; }

// Quads whose products fit together in 16 bits: (2^bits - 1) * 128 * 2 each, at most 32767 in all.
constexpr int quads_together(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : 2; }
static_assert(15 * 256 * 8 <= 32767 && 31 * 256 * 4 <= 32767 && 63 * 256 * 2 <= 32767);

struct Blocks8 {
    static constexpr int64_t panel_bytes = 2 * vector_bytes * quads;
    static constexpr int panel_tokens = 4;

    template <int bits>
    [[gnu::flatten]] static void dots(const uint8_t* block, const Activations& x, int64_t at, Floats8 (&out)[parts]) {
        __m256i sums[parts] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        if constexpr (bits <= 6)
            add_planes<bits>(block, x.high + at * block_columns, x.low + at * block_columns, sums);
        else
            add_whole<bits>(block, x.integers + at * block_columns, sums);
        for (int part = 0; part < parts; ++part) out[part] = {_mm256_cvtepi32_ps(sums[part])};
    }

    // Codes as 16-bit integers: [quad][first or last two columns][16 rows][2 columns].
    template <int bits>
    [[gnu::flatten]] static void unpack(const uint8_t* block, uint8_t* panel) {
        unrolled<quads>([&](auto quad) {
            for (int part = 0; part < parts; ++part) {
                const __m256i codes = quad_codes<bits, quad>(block, part);
                store(panel + quad * 2 * vector_bytes + part * part_bytes, first_two(codes));
                store(panel + (quad * 2 + 1) * vector_bytes + part * part_bytes, last_two(codes));
            }
        });
    }

    template <int tokens>
    static void panel_dots(const uint8_t* panel, const Activations& x, int64_t at, Floats8 (&out)[tokens][parts]) {
        const int16_t* const integers = x.integers + at * block_columns;
        __m256i sums[tokens][parts];
        for (auto& token : sums)
            for (auto& sum : token) sum = _mm256_setzero_si256();
        unrolled<2 * quads>([&](auto pair) {
            const uint8_t* const codes = panel + pair * vector_bytes;
            const __m256i upper = load(codes), lower = load(codes + part_bytes);
            for (int token = 0; token < tokens; ++token) {
                const __m256i two = every_lane(integers + token * block_columns + pair * 2);
                sums[token][0] = _mm256_add_epi32(sums[token][0], _mm256_madd_epi16(upper, two));
                sums[token][1] = _mm256_add_epi32(sums[token][1], _mm256_madd_epi16(lower, two));
                settle(sums[token]);
            }
        });
        for (int token = 0; token < tokens; ++token)
            for (int part = 0; part < parts; ++part) out[token][part] = {_mm256_cvtepi32_ps(sums[token][part])};
    }

private:
    // A broadcast of four activations serves both halves of the rows.
    template <int bits>
    static void add_planes(const uint8_t* block, const int8_t* high, const int8_t* low, __m256i (&sums)[parts]) {
        constexpr int together = quads_together(bits);
        const __m256i high_weight = _mm256_set1_epi16(256), low_weight = _mm256_set1_epi16(1);
        unrolled<quads / together>([&](auto run) {
            __m256i upper[parts], lower[parts];
            unrolled<together>([&](auto step) {
                constexpr int quad = in_pairs(run * together + step);
                const __m256i four_high = every_lane(high + quad * 4), four_low = every_lane(low + quad * 4);
                for (int part = 0; part < parts; ++part) {
                    const __m256i codes = quad_codes<bits, quad>(block, part);
                    const __m256i of_high = _mm256_maddubs_epi16(codes, four_high);
                    const __m256i of_low = _mm256_maddubs_epi16(codes, four_low);
                    upper[part] = step == 0 ? of_high : _mm256_add_epi16(upper[part], of_high);
                    lower[part] = step == 0 ? of_low : _mm256_add_epi16(lower[part], of_low);
                }
                settle(upper);
                settle(lower);
            });
            for (int part = 0; part < parts; ++part) {
                const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(upper[part], high_weight),
                                                      _mm256_madd_epi16(lower[part], low_weight));
                sums[part] = _mm256_add_epi32(sums[part], both);
            }
        });
    }

    template <int bits>
    static void add_whole(const uint8_t* block, const int16_t* integers, __m256i (&sums)[parts]) {
        unrolled<quads>([&](auto quad) {
            const __m256i first = every_lane(integers + quad * 4), last = every_lane(integers + quad * 4 + 2);
            for (int part = 0; part < parts; ++part) {
                const __m256i codes = quad_codes<bits, quad>(block, part);
                sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(first_two(codes), first));
                sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(last_two(codes), last));
            }
            settle(sums);
        });
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

// Packing works within halves of a register; this brings the four quarters back into order.
__m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xd8); }

void quantize_block(const float* values, const Activations& x, int64_t at) {
    const float scale = activation_scale(largest_bits(values));
    __m256i integers[2], sum = _mm256_setzero_si256();
    for (int half = 0; half < 2; ++half) {
        __m256i a = _mm256_setzero_si256(), b = a;
        if (scale > 0.0f) {
            a = integers_of(values + half * 16, _mm256_set1_ps(scale));
            b = integers_of(values + half * 16 + 8, _mm256_set1_ps(scale));
        }
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
        integers[half] = in_order(_mm256_packs_epi32(a, b));
        store(x.integers + at * block_columns + half * 16, integers[half]);
    }
    const auto high = [](__m256i x) { return _mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(128)), 8); };
    const auto low = [](__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi16(255)); };
    store(x.high + at * block_columns, in_order(_mm256_packs_epi16(high(integers[0]), high(integers[1]))));
    store(x.low + at * block_columns, in_order(_mm256_packus_epi16(low(integers[0]), low(integers[1]))));
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
            quantize_block(left < block_columns ? padded : values, x, x.place(block, token));
        }
}

using Path = SimdPath<Floats8, Blocks8>;

}  // namespace

const Kernels avx2_kernels = {
    "avx2",    quantize,         Path::multiply, Path::silu_multiply, Path::exp_shifted,
    Path::dot, Path::add_scaled, Path::row_dots, Path::add_rows,
};

}  // namespace moecompress
#endif
