// NEON with dot products of bytes (ARMv8.2): a register holds 4 rows of a tile. The instruction multiplies signed
// bytes, so codes of 8 bits are stored minus 128, which 128 times the sum of the activations gives back exactly.
// Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_ARM
#include <arm_neon.h>

#include "kernels/simd.h"
#include "kernels/simd_bytes.h"

namespace moecompress {
namespace {

template <class T>
T loaded(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

struct Floats4 {
    static constexpr int rows = 4;
    static constexpr int dense_tokens = 1;
    float32x4_t value;

    static Floats4 all(float c) { return {vdupq_n_f32(c)}; }
    static Floats4 load(const float* from) { return {vld1q_f32(from)}; }
    static Floats4 load_part(const float* from, int64_t count) {
        float lanes[rows] = {};
        std::memcpy(lanes, from, smaller_of(count, rows) * sizeof(float));
        return load(lanes);
    }
    static Floats4 from_half(const uint8_t* from) {
        return {vcvt_f32_f16(vreinterpret_f16_u16(loaded<uint16x4_t>(from)))};
    }
    static Floats4 from_bf16(const uint8_t* from) {
        return {vreinterpretq_f32_u32(vshll_n_u16(loaded<uint16x4_t>(from), 16))};
    }
    static Floats4 from_int16(const int16_t* from) { return {vcvtq_f32_s32(vmovl_s16(vld1_s16(from)))}; }
    static Floats4 from_int8(const int8_t* from) {
        const int16x8_t integers = vmovl_s8(vcreate_s8(loaded<uint32_t>(from)));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(integers)))};
    }
    static Floats4 from_integer(int32_t n) { return {vcvtq_f32_s32(vdupq_n_s32(n))}; }
    void store(float* to) const { vst1q_f32(to, value); }
    void store_part(float* to, int64_t count) const {
        float lanes[rows];
        store(lanes);
        std::memcpy(to, lanes, smaller_of(count, rows) * sizeof(float));
    }

    static Floats4 plus(Floats4 a, Floats4 b) { return {vaddq_f32(a.value, b.value)}; }
    static Floats4 minus(Floats4 a, Floats4 b) { return {vsubq_f32(a.value, b.value)}; }
    static Floats4 times(Floats4 a, Floats4 b) { return {vmulq_f32(a.value, b.value)}; }
    static Floats4 divided(Floats4 a, Floats4 b) { return {vdivq_f32(a.value, b.value)}; }
    static Floats4 fused(Floats4 a, Floats4 b, Floats4 c) { return {vfmaq_f32(c.value, a.value, b.value)}; }
    static Floats4 larger(Floats4 a, Floats4 b) { return {vbslq_f32(vcgtq_f32(a.value, b.value), a.value, b.value)}; }
    static Floats4 smaller(Floats4 a, Floats4 b) { return {vbslq_f32(vcltq_f32(a.value, b.value), a.value, b.value)}; }
    static Floats4 first_of(Floats4 a, Floats4 b, int64_t count) {
        const int32_t lanes[rows] = {0, 1, 2, 3};
        const uint32x4_t first = vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(static_cast<int32_t>(count)));
        return {vbslq_f32(first, a.value, b.value)};
    }

    static float32x4_t power_of_two(int32x4_t n) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
    }
    static Floats4 times_power(Floats4 p, Floats4 shifted) {
        const int32x4_t offset = vreinterpretq_s32_f32(vdupq_n_f32(round_shift));
        const int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(shifted.value), offset);
        const int32x4_t half = vshrq_n_s32(n, 1);
        const float32x4_t scaled = vmulq_f32(p.value, power_of_two(half));
        return {vmulq_f32(scaled, power_of_two(vsubq_s32(n, half)))};
    }

    // Halves added: 8, 4, 2, 1.
    static float folded(const Floats4 (&sums)[4]) {
        const Floats4 four = plus(plus(sums[0], sums[2]), plus(sums[1], sums[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four.value), vget_high_f32(four.value));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
    static void folded(const Floats4 (&sums)[4][4], float* out) {
        for (int i = 0; i < 4; ++i) out[i] = folded(sums[i]);
    }
};

struct Bytes4 {
    using Sums = int32x4_t;
    static constexpr int offset = 128;
    static constexpr int panel_tokens = 2;
    uint8x16_t value;

    static Bytes4 load(const void* from) { return {vld1q_u8(static_cast<const uint8_t*>(from))}; }
    void store(void* to) const { vst1q_u8(static_cast<uint8_t*>(to), value); }
    template <int right>
    Bytes4 moved() const {
        if constexpr (right > 0) return {vshrq_n_u8(value, right)};
        if constexpr (right < 0) return {vshlq_n_u8(value, -right)};
        return *this;
    }
    template <int mask>
    static Bytes4 masked(Bytes4 a) {
        return {vandq_u8(a.value, vdupq_n_u8(mask))};
    }
    template <int mask>
    static Bytes4 merged(Bytes4 a, Bytes4 b) {
        return {vorrq_u8(a.value, masked<mask>(b).value)};
    }
    static Bytes4 with_sign(Bytes4 codes) { return {veorq_u8(codes.value, vdupq_n_u8(offset))}; }

    static Sums zero() { return vdupq_n_s32(0); }
    static int8x16_t four(const int8_t* from) { return vreinterpretq_s8_s32(vdupq_n_s32(loaded<int32_t>(from))); }
    static Sums dot(Sums sums, Bytes4 codes, int8x16_t four) {
        return vdotq_s32(sums, vreinterpretq_s8_u8(codes.value), four);
    }
    static Floats4 joined(Sums upper, Sums lower, int32_t more) {
        const int32x4_t both = vaddq_s32(vshlq_n_s32(upper, 8), lower);
        return {vcvtq_f32_s32(vaddq_s32(both, vdupq_n_s32(more)))};
    }
};

uint32_t largest_bits(const float* values) {
    uint32x4_t four = vdupq_n_u32(0);
    for (int k = 0; k < block_columns; k += 4)
        four = vmaxq_u32(four, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(values + k))));
    return vmaxvq_u32(four);
}

// Four integers, rounded half to even; the values are finite.
int32x4_t integers_of(const float* values, float scale) {
    const float32x4_t ratio = vdivq_f32(vld1q_f32(values), vdupq_n_f32(scale));
    const float32x4_t limited = vmaxq_f32(vminq_f32(ratio, vdupq_n_f32(integer_limit)), vdupq_n_f32(-integer_limit));
    return vcvtnq_s32_f32(limited);
}

void quantize_block(const float* values, const Activations& x, int64_t at) {
    const float scale = activation_scale(largest_bits(values));
    int32x4_t sum = vdupq_n_s32(0);
    for (int64_t k = 0; k < block_columns; k += 8) {
        int32x4_t a = vdupq_n_s32(0), b = a;
        if (scale > 0.0f) a = integers_of(values + k, scale), b = integers_of(values + k + 4, scale);
        sum = vaddq_s32(sum, vaddq_s32(a, b));
        const int16x8_t eight = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        const int64_t to = at * block_columns + k;
        vst1q_s16(x.integers + to, eight);
        vst1_s8(x.low + to, vmovn_s16(eight));
        vst1_s8(x.high + to, vmovn_s16(vshrq_n_s16(vaddq_s16(eight, vdupq_n_s16(128)), 8)));
    }
    x.scale[at] = scale;
    x.sum[at] = vaddvq_s32(sum);
}

void quantize(const Activations& x, int64_t first, int64_t last) {
    for (int64_t token = first; token < last; ++token)
        for (int64_t block = 0; block < x.blocks(); ++block) {
            const float* const values = x.values + token * x.columns + block * block_columns;
            const int64_t left = smaller_of(block_columns, x.columns - block * block_columns);
            float padded[block_columns] = {};
            if (left < block_columns) std::memcpy(padded, values, left * sizeof(float));
            quantize_block(left < block_columns ? padded : values, x, x.place(block, token));
        }
}

using Path = SimdPath<Floats4, ByteBlocks<Floats4, Bytes4>>;

}  // namespace

const Kernels neon_kernels = {
    "neon",    quantize,         Path::multiply, Path::silu_multiply, Path::exp_shifted,
    Path::dot, Path::add_scaled, Path::row_dots, Path::add_rows,
};

}  // namespace moecompress
#endif
