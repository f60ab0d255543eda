// AMX-INT8: a tile instruction multiplies a block's codes with one plane of the activations of 16 or 8 tokens. A block
// of 32 columns is half as deep as a tile can be, because every block is a term of its own in the sums. Everything
// else, and any smaller number of tokens, is the AVX-512 VNNI path's. Compiled with its own flags: nothing here may be
// an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include "kernels/bytes16.h"
#include "kernels/simd_affine.h"
#include "kernels/simd_bytes.h"

namespace moecompress {
namespace {

constexpr int fewest_tokens = 8;

// The tile registers of this thread while it lives. 0 and 1 hold the sums of both planes for 16 tokens, 2 a plane of
// their activations; 3, 4 and 5 the same for 8 tokens; 6 the codes.
class Tiles {
public:
    Tiles() { _tile_loadconfig(&shapes); }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

private:
    struct alignas(64) Shapes {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    static_assert(sizeof(Shapes) == 64);
    static constexpr Shapes shapes = {1, 0, {}, {64, 64, 32, 64, 64, 32, 64}, {16, 16, 16, 8, 8, 8, quads}};
};

struct TileBlocks : ByteBlocks<Floats16, Bytes16> {
    using Bytes = ByteBlocks<Floats16, Bytes16>;
    static constexpr int panel_tokens = 16;

    template <int tokens>
    static void panel_dots(const uint8_t* panel, const Activations& x, int64_t at, Floats16 (&out)[tokens][parts]) {
        if constexpr (tokens < fewest_tokens) {
            Bytes::panel_dots<tokens>(panel, x, at, out);
        } else {
            alignas(64) int32_t upper[tokens][tile_rows], lower[tokens][tile_rows];
            multiply<tokens>(panel, x.high + at * block_columns, x.low + at * block_columns, upper, lower);
            for (int token = 0; token < tokens; ++token)
                out[token][0] = Bytes16::joined(_mm512_load_si512(upper[token]), _mm512_load_si512(lower[token]), 0);
        }
    }

private:
    // [tokens][32] activations of each plane times the panel. The intrinsics take register numbers as literals.
    template <int tokens>
    static void multiply(const uint8_t* panel, const int8_t* high, const int8_t* low, int32_t (*upper)[tile_rows],
                         int32_t (*lower)[tile_rows]) {
        __asm__ volatile("" ::: "memory");  // the intrinsics do not say that they read memory: the panel is written now
        _tile_loadd(6, panel, vector_bytes);
        if constexpr (tokens == 16) {
            _tile_zero(0);
            _tile_loadd(2, high, block_columns);
            _tile_dpbsud(0, 2, 6);
            _tile_zero(1);
            _tile_loadd(2, low, block_columns);
            _tile_dpbsud(1, 2, 6);
            _tile_stored(0, upper, 64);
            _tile_stored(1, lower, 64);
        } else {
            static_assert(tokens == 8);
            _tile_zero(3);
            _tile_loadd(5, high, block_columns);
            _tile_dpbsud(3, 5, 6);
            _tile_zero(4);
            _tile_loadd(5, low, block_columns);
            _tile_dpbsud(4, 5, 6);
            _tile_stored(3, upper, 64);
            _tile_stored(4, lower, 64);
        }
    }
};

}  // namespace

void multiply_amx(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                  int64_t y_stride) {
    if (w.codec != Codec::affine || x.tokens < fewest_tokens)
        return avx512vnni_kernels.multiply(w, x, first_tile, last_tile, y, y_stride);
    const Tiles tiles;
    AffinePath<Floats16, TileBlocks>::multiply(w, x, first_tile, last_tile, y, y_stride);
}

}  // namespace moecompress
#endif
