// What the vector paths share: loops over tiles, blocks and tokens, written for any register of float lanes.
//
// An instruction-set file defines two things and instantiates `SimdPath` with them:
// * V: one register of `V::rows` (8 or 16) float lanes, with the static functions used here and in exponential.h;
// * Codes<bits>: the codes of one block for V::rows rows: a constructor from the block, and dot(high, low) -> V, the
//   exact integer inner product with one token's activations, converted to float.
#pragma once

#include "kernels/exponential.h"

namespace moecompress {
namespace {

// Tokens that share one unpacking of a block; their activations for a few thousand columns stay in the first cache.
constexpr int shared_tokens = 8;
// Weights are asked for this far ahead of their use, across page ends, where hardware prefetchers stop.
constexpr int64_t prefetch_distance = 2048;

template <class V, template <int> class Codes>
struct SimdPath {
    static constexpr int parts = static_cast<int>(tile_rows) / V::rows;

    static void store_tile(const PackedMatrix& w, int64_t tile, const V* sums, float* y) {
        const int64_t rows = rows_in_tile(w, tile);
        for (int part = 0; part < parts; ++part) {
            const int64_t left = rows - part * V::rows;
            if (left > 0) sums[part].store_part(y + tile * tile_rows + part * V::rows, smaller_of(left, V::rows));
        }
    }

    // Affine: sums[token][part] for tokens [first, first + tokens), tokens <= most.
    template <int bits, int most>
    static void affine_tile(const PackedMatrix& w, const uint8_t* data, const Activations& x, int64_t first, int tokens,
                            V* sums) {
        const int64_t blocks = x.blocks();
        const int64_t group_blocks = w.group_size / block_columns;
        const int count = most == 1 ? 1 : tokens;
        V scale[parts], minimum[parts];
        for (int64_t start = 0; start < blocks; start += group_blocks) {
            for (int part = 0; part < parts; ++part) {
                scale[part] = V::from_half(data + part * V::rows * 2);
                minimum[part] = V::from_half(data + 32 + part * V::rows * 2);
            }
            data += header_bytes;
            const int64_t end = smaller_of(start + group_blocks, blocks);
            for (int64_t block = start; block < end; ++block, data += block_bytes(bits)) {
                if (most == 1)
                    for (int line = 0; line < bits; ++line)
                        __builtin_prefetch(data + prefetch_distance + line * vector_bytes);
                for (int part = 0; part < parts; ++part) {
                    const Codes<bits> codes(data + part * V::rows * 4);
                    for (int token = 0; token < count; ++token) {
                        const int64_t at = (first + token) * blocks + block;
                        const V dot = codes.dot(x.high + at * block_columns, x.low + at * block_columns);
                        const V total = V::from_integer(x.sum[at]);
                        const V term = V::fused(scale[part], dot, V::times(minimum[part], total));
                        V& sum = sums[token * parts + part];
                        sum = V::fused(V::all(x.scale[at]), term, sum);
                    }
                }
            }
        }
    }

    template <int bits>
    static void affine(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                       int64_t y_stride) {
        const int64_t stride = w.tile_bytes();
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
            const uint8_t* data = w.data + tile * stride;
            for (int64_t first = 0; first < x.tokens; first += shared_tokens) {
                const int count = static_cast<int>(smaller_of(shared_tokens, x.tokens - first));
                V sums[shared_tokens * parts];
                for (int k = 0; k < count * parts; ++k) sums[k] = V::all(0.0f);
                if (count == 1)
                    affine_tile<bits, 1>(w, data, x, first, 1, sums);
                else
                    affine_tile<bits, shared_tokens>(w, data, x, first, count, sums);
                for (int token = 0; token < count; ++token)
                    store_tile(w, tile, sums + token * parts, y + (first + token) * y_stride);
            }
        }
    }

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
        switch (w.bits) {
            case 1: return affine<1>(w, x, first_tile, last_tile, y, y_stride);
            case 2: return affine<2>(w, x, first_tile, last_tile, y, y_stride);
            case 3: return affine<3>(w, x, first_tile, last_tile, y, y_stride);
            case 4: return affine<4>(w, x, first_tile, last_tile, y, y_stride);
            case 5: return affine<5>(w, x, first_tile, last_tile, y, y_stride);
            case 6: return affine<6>(w, x, first_tile, last_tile, y, y_stride);
            case 7: return affine<7>(w, x, first_tile, last_tile, y, y_stride);
            default: return affine<8>(w, x, first_tile, last_tile, y, y_stride);
        }
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
