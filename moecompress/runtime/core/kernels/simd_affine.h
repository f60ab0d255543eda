// Affine products of the vector paths, written for any register of float lanes.
//
// One token streams through the packed codes. Several tokens share the unpacking of a group of columns into a panel,
// and a token block's activations stay in the second cache while all tiles pass by.
//
// An instruction-set file gives `Blocks`, which multiplies one block of 16 rows x 32 columns:
// * dots<bits>(block, x, at, out): exact integer inner products of the packed block with the activations at place
//   `at`, converted to float, one register for every V::rows rows;
// * unpack<bits>(block, panel): the codes in a form of its own, `panel_bytes` long, 64-byte aligned;
// * panel_dots<tokens>(panel, x, at, out): the same products for the tokens at places `at`, at + 1, ...; `tokens` is a
//   power of two of at most `panel_tokens`.
#pragma once

#include "kernels/layout.h"

namespace moecompress {
namespace {

// Weights are asked for this far ahead of their use, across page ends, where hardware prefetchers stop.
constexpr int64_t prefetch_distance = 2048;

template <class V>
void store_tile(const PackedMatrix& w, int64_t tile, const V* sums, float* y) {
    const int64_t rows = rows_in_tile(w, tile);
    for (int64_t start = 0; start < rows; start += V::rows) {
        float* const to = y + tile * tile_rows + start;
        if (rows - start >= V::rows)
            sums[start / V::rows].store(to);
        else
            sums[start / V::rows].store_part(to, rows - start);
    }
}

template <class V, class Blocks>
struct AffinePath {
    static constexpr int parts = static_cast<int>(tile_rows) / V::rows;
    // Tokens worked on together: their activations of a few thousand columns fit the second cache.
    static constexpr int shared_tokens = 64;
    static constexpr int64_t most_group_blocks = 4;

    // Scales and minima of a tile's rows in one group of columns.
    struct Group {
        V scale[parts], minimum[parts];

        explicit Group(const uint8_t* header) {
            for (int part = 0; part < parts; ++part) {
                scale[part] = V::from_half(header + part * V::rows * 2);
                minimum[part] = V::from_half(header + 32 + part * V::rows * 2);
            }
        }

        // Adds one block of one token: two fused operations a row, whose order the format fixes.
        void add(const V (&dots)[parts], const Activations& x, int64_t at, V (&sums)[parts]) const {
            const V total = V::from_integer(x.sum[at]);
            const V factor = V::all(x.scale[at]);
            for (int part = 0; part < parts; ++part) {
                const V term = V::fused(scale[part], dots[part], V::times(minimum[part], total));
                sums[part] = V::fused(factor, term, sums[part]);
            }
        }
    };

    template <int bits>
    static void prefetch(const uint8_t* block) {
        for (int line = 0; line < bits; ++line) __builtin_prefetch(block + prefetch_distance + line * vector_bytes);
    }

    template <int bits>
    static void one_token(const PackedMatrix& w, const uint8_t* data, const Activations& x, V (&out)[parts]) {
        V sums[parts];
        for (V& sum : sums) sum = V::all(0.0f);
        const int64_t blocks = x.blocks(), group_blocks = w.group_size / block_columns;
        for (int64_t start = 0; start < blocks; start += group_blocks) {
            const Group group(data);
            data += header_bytes;
            const int64_t end = smaller_of(start + group_blocks, blocks);
            for (int64_t block = start; block < end; ++block, data += block_bytes(bits)) {
                prefetch<bits>(data);
                V dots[parts];
                Blocks::template dots<bits>(data, x, block, dots);
                group.add(dots, x, block, sums);
            }
        }
        for (int part = 0; part < parts; ++part) out[part] = sums[part];
    }

    // Adds one block for the tokens at places `at`, at + 1, ... A function of its own: sums of integers take all
    // registers, and the float sums of a loop around them would push them out.
    template <int tokens>
    [[gnu::noinline, gnu::flatten]] static void add_block(const uint8_t* panel, const Group& group,
                                                          const Activations& x, int64_t at, V (*sums)[parts]) {
        V dots[tokens][parts];
        Blocks::template panel_dots<tokens>(panel, x, at, dots);
        for (int token = 0; token < tokens; ++token) group.add(dots[token], x, at + token, sums[token]);
    }

    // As many tokens at a time as the panel allows, then half as many, down to one.
    template <int tokens>
    static void add_group(const uint8_t* panel, int64_t blocks, const Group& group, const Activations& x, int64_t at,
                          int left, V (*sums)[parts]) {
        for (; left >= tokens; left -= tokens, at += tokens, sums += tokens)
            for (int64_t block = 0; block < blocks; ++block)
                add_block<tokens>(panel + block * Blocks::panel_bytes, group, x, at + block * x.tokens, sums);
        if constexpr (tokens > 1) add_group<tokens / 2>(panel, blocks, group, x, at, left, sums);
    }

    // Tokens [first, first + count) of one tile.
    template <int bits>
    static void many_tokens(const PackedMatrix& w, const uint8_t* data, const Activations& x, int64_t first, int count,
                            V (*sums)[parts]) {
        alignas(64) uint8_t panel[most_group_blocks * Blocks::panel_bytes];
        const int64_t blocks = x.blocks(), group_blocks = w.group_size / block_columns;
        for (int64_t start = 0; start < blocks; start += group_blocks) {
            const Group group(data);
            data += header_bytes;
            const int64_t width = smaller_of(group_blocks, blocks - start);
            for (int64_t block = 0; block < width; ++block, data += block_bytes(bits)) {
                prefetch<bits>(data);
                Blocks::template unpack<bits>(data, panel + block * Blocks::panel_bytes);
            }
            add_group<Blocks::panel_tokens>(panel, width, group, x, x.place(start, first), count, sums);
        }
    }

    template <int bits>
    static void multiply_tiles(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile,
                               float* y, int64_t y_stride) {
        const int64_t stride = w.tile_bytes();
        for (int64_t first = 0; first < x.tokens; first += shared_tokens) {
            const int count = static_cast<int>(smaller_of(shared_tokens, x.tokens - first));
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                V sums[shared_tokens][parts];
                for (int token = 0; token < count; ++token)
                    for (V& sum : sums[token]) sum = V::all(0.0f);
                if (x.tokens == 1)
                    one_token<bits>(w, w.data + tile * stride, x, sums[0]);
                else
                    many_tokens<bits>(w, w.data + tile * stride, x, first, count, sums);
                for (int token = 0; token < count; ++token)
                    store_tile(w, tile, sums[token], y + (first + token) * y_stride);
            }
        }
    }

    static void multiply(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                         int64_t y_stride) {
        switch (w.bits) {
            case 1: return multiply_tiles<1>(w, x, first_tile, last_tile, y, y_stride);
            case 2: return multiply_tiles<2>(w, x, first_tile, last_tile, y, y_stride);
            case 3: return multiply_tiles<3>(w, x, first_tile, last_tile, y, y_stride);
            case 4: return multiply_tiles<4>(w, x, first_tile, last_tile, y, y_stride);
            case 5: return multiply_tiles<5>(w, x, first_tile, last_tile, y, y_stride);
            case 6: return multiply_tiles<6>(w, x, first_tile, last_tile, y, y_stride);
            case 7: return multiply_tiles<7>(w, x, first_tile, last_tile, y, y_stride);
            default: return multiply_tiles<8>(w, x, first_tile, last_tile, y, y_stride);
        }
    }
};

}  // namespace
}  // namespace moecompress
