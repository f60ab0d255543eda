// What the vector paths share, written for any register of float lanes.
//
// An instruction-set file defines two things and instantiates `SimdPath` with them:
// * V: one register of `V::rows` (4, 8 or 16) float lanes, with the static functions used here and in exponential.h;
// * Blocks: the integer products of simd_affine.h.
#pragma once

#include "kernels/exponential.h"
#include "kernels/simd_affine.h"
#include "kernels/simd_rows.h"

namespace moecompress {
namespace {

template <class V, class Blocks>
struct SimdPath : RowPath<V> {
    static constexpr int parts = static_cast<int>(tile_rows) / V::rows;

    // Dense: columns k + 0 .. k + 3 go to partial sums 0 .. 3.
    template <bool bf16, int tokens>
    static void dense_columns(const uint8_t* data, const float* values, int64_t stride, int count,
                              V (&sums)[tokens][4][parts]) {
        constexpr int bytes = bf16 ? 2 : 4;
        for (int k = 0; k < count; ++k) {
            for (int part = 0; part < parts; ++part) {
                const uint8_t* from = data + (k * tile_rows + part * V::rows) * bytes;
                const V weight = bf16 ? V::from_bf16(from) : V::load(reinterpret_cast<const float*>(from));
                for (int token = 0; token < tokens; ++token)
                    sums[token][k][part] = V::fused(weight, V::all(values[token * stride + k]), sums[token][k][part]);
            }
        }
    }

    template <bool bf16, int tokens>
    static void dense_tile(const PackedMatrix& w, int64_t tile, int64_t stride, const float* values, float* y,
                           int64_t y_stride) {
        constexpr int64_t column_bytes = tile_rows * (bf16 ? 2 : 4);
        const uint8_t* data = w.data + tile * stride;
        V sums[tokens][4][parts];
        for (auto& token : sums)
            for (auto& part : token)
                for (auto& sum : part) sum = V::all(0.0f);
        int64_t k = 0;
        for (; k + 4 <= w.columns; k += 4, data += 4 * column_bytes) {
            for (int line = 0; line < 4 * column_bytes; line += 64) __builtin_prefetch(data + prefetch_distance + line);
            dense_columns<bf16, tokens>(data, values + k, w.columns, 4, sums);
        }
        dense_columns<bf16, tokens>(data, values + k, w.columns, static_cast<int>(w.columns - k), sums);
        for (int token = 0; token < tokens; ++token) {
            V(&s)[4][parts] = sums[token];
            for (int part = 0; part < parts; ++part)
                s[0][part] = V::plus(V::plus(s[0][part], s[1][part]), V::plus(s[2][part], s[3][part]));
            store_tile(w, tile, s[0], y + token * y_stride);
        }
    }

    template <bool bf16>
    static void dense(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                      int64_t y_stride) {
        const int64_t stride = w.tile_bytes();
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
            int64_t token = 0;
            for (; token + V::dense_tokens <= x.tokens; token += V::dense_tokens)
                dense_tile<bf16, V::dense_tokens>(w, tile, stride, x.values + token * x.columns, y + token * y_stride,
                                                  y_stride);
            for (; token < x.tokens; ++token)
                dense_tile<bf16, 1>(w, tile, stride, x.values + token * x.columns, y + token * y_stride, y_stride);
        }
    }

    static void multiply(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                         int64_t y_stride) {
        if (w.codec == Codec::dense_bf16) return dense<true>(w, x, first_tile, last_tile, y, y_stride);
        if (w.codec == Codec::dense_f32) return dense<false>(w, x, first_tile, last_tile, y, y_stride);
        AffinePath<V, Blocks>::multiply(w, x, first_tile, last_tile, y, y_stride);
    }

    static void silu_multiply(const float* gate, const float* up, float* out, int64_t count) {
        int64_t i = 0;
        for (; i + V::rows <= count; i += V::rows)
            V::times(silu_lanes(V::load(gate + i)), V::load(up + i)).store(out + i);
        const int64_t left = count - i;
        if (left > 0)
            V::times(silu_lanes(V::load_part(gate + i, left)), V::load_part(up + i, left)).store_part(out + i, left);
    }

    static void exp_shifted(float* x, float shift, int64_t count) {
        int64_t i = 0;
        for (; i + V::rows <= count; i += V::rows) exp_lanes(V::minus(V::load(x + i), V::all(shift))).store(x + i);
        const int64_t left = count - i;
        if (left > 0) exp_lanes(V::minus(V::load_part(x + i, left), V::all(shift))).store_part(x + i, left);
    }

    static void add_scaled(float* y, const float* x, float factor, int64_t count) {
        const V factors = V::all(factor);
        int64_t i = 0;
        for (; i + V::rows <= count; i += V::rows) V::fused(factors, V::load(x + i), V::load(y + i)).store(y + i);
        const int64_t left = count - i;
        if (left > 0) V::fused(factors, V::load_part(x + i, left), V::load_part(y + i, left)).store_part(y + i, left);
    }

    // Lanes past the end keep their sum untouched: adding a zero product could change the sign of a zero.
    static float dot(const float* a, const float* b, int64_t count) {
        V sums[parts];
        for (V& sum : sums) sum = V::all(0.0f);
        int64_t i = 0;
        for (; i + tile_rows <= count; i += tile_rows)
            for (int part = 0; part < parts; ++part) {
                const int64_t at = i + part * V::rows;
                sums[part] = V::fused(V::load(a + at), V::load(b + at), sums[part]);
            }
        for (int part = 0; part < parts && i < count; ++part, i += V::rows) {
            const int64_t left = smaller_of(count - i, V::rows);
            const V longer = V::fused(V::load_part(a + i, left), V::load_part(b + i, left), sums[part]);
            sums[part] = V::first_of(longer, sums[part], left);
        }
        return V::folded(sums);
    }
};

}  // namespace
}  // namespace moecompress
