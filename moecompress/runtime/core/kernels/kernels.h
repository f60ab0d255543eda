// Kernels of the runtime: packed matrix times activations, bit-identical on every instruction set and thread count.
//
// Layouts are those of artifact/FORMAT.md: tiles of 16 output rows, blocks of 32 input columns. A lane is an output
// row, so no horizontal sum exists and the float order is fixed by the format.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moecompress {

enum class Codec : int { dense_bf16 = 0, dense_f32 = 1, affine = 2 };

constexpr int64_t tile_rows = 16;
constexpr int64_t block_columns = 32;

// A packed [rows, columns] matrix; `data` is 64-byte aligned and owned elsewhere.
struct PackedMatrix {
    Codec codec = Codec::dense_f32;
    int bits = 0;        // affine only, 1..8
    int group_size = 0;  // affine only: 32, 64 or 128
    int64_t rows = 0;
    int64_t columns = 0;
    const uint8_t* data = nullptr;

    int64_t tiles() const { return (rows + tile_rows - 1) / tile_rows; }
    int64_t blocks() const { return (columns + block_columns - 1) / block_columns; }
    int64_t tile_bytes() const;  // bytes of one tile of 16 rows
    int64_t bytes() const { return tiles() * tile_bytes(); }
    // Throws std::invalid_argument when codec, bits, group size or shape are not ones the kernels know.
    void check() const;
};

// Activations of `tokens` tokens, prepared once per input vector: 15-bit integers, whole and in two int8 planes.
// Arrays are [blocks][tokens][32] (integers, planes) and [blocks][tokens] (scale, sum), 64-byte aligned, so that many
// tokens are read in order; `values` is the float32 input [tokens][columns], read by dense kernels and by `quantize`.
//
// A block's scale is absmax / 32512, its integers are round_half_even(x / scale) clamped to +-32512 and also split as
// 256 * high + low. A block that holds an infinity or NaN has scale NaN and integers 0, so its outputs are NaN.
struct Activations {
    int64_t tokens = 0;
    int64_t columns = 0;
    int8_t* high = nullptr;
    int8_t* low = nullptr;
    int16_t* integers = nullptr;
    float* scale = nullptr;
    int32_t* sum = nullptr;
    const float* values = nullptr;

    int64_t blocks() const { return (columns + block_columns - 1) / block_columns; }
    // Index of a token's block in scale and sum; times 32 in the others.
    int64_t place(int64_t block, int64_t token) const { return block * tokens + token; }
    static size_t workspace_bytes(int64_t tokens, int64_t columns);  // for the five arrays
    // Points the five arrays into a 64-byte aligned workspace of at least workspace_bytes().
    static Activations in(uint8_t* workspace, int64_t tokens, int64_t columns, const float* values);
};

// Rows of `size` integers one after the other, of 16 bits or, when `narrow`, of 8.
struct IntegerRows {
    const void* data = nullptr;
    bool narrow = false;
    int64_t size = 0;

    // The same rows without the first `count`.
    IntegerRows after(int64_t count) const {
        const int64_t bytes = count * size * (narrow ? 1 : 2);
        return {static_cast<const uint8_t*>(data) + bytes, narrow, size};
    }
};

// `count` vectors of floats, `stride` apart.
template <class Float>
struct Lines {
    Float* data = nullptr;
    int64_t stride = 0;
    int64_t count = 0;
};

// One instruction-set path. `name`: scalar, avx2, avx512vnni. All functions give the same bits on every path.
struct Kernels {
    const char* name;
    // Fills the integers, planes, scales and sums of tokens [first, last).
    void (*quantize)(const Activations& x, int64_t first, int64_t last);
    // y[token * y_stride + row] for the rows of tiles [first_tile, last_tile) and all tokens of x; rows past w.rows are
    // not written. Affine matrices read the planes of x (call `quantize` first), dense ones read `values`.
    void (*multiply)(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                     int64_t y_stride);
    // out[i] = silu_fixed(gate[i]) * up[i]; out may be gate or up.
    void (*silu_multiply)(const float* gate, const float* up, float* out, int64_t count);
    // x[i] = exp_fixed(x[i] - shift), in place.
    void (*exp_shifted)(float* x, float shift, int64_t count);
    // Inner product: 16 partial sums (element i into sum i mod 16, fma in order), then halves added 8, 4, 2, 1.
    float (*dot)(const float* a, const float* b, int64_t count);
    // y[i] = fma(factor, x[i], y[i]).
    void (*add_scaled)(float* y, const float* x, float factor, int64_t count);
    // out[v][r] = dot(line v of x, row r), for rows [0, length).
    void (*row_dots)(const IntegerRows& rows, int64_t length, const Lines<const float>& x, const Lines<float>& out);
    // Line v of y: y[i] = fma(factors[v][r], row r[i], y[i]) for each row of [0, length) in order.
    void (*add_rows)(const IntegerRows& rows, int64_t length, const Lines<const float>& factors, const Lines<float>& y);
};

// The best path that this processor runs and that passes its self-test, or the one named by MOECOMPRESS_ISA; throws
// std::invalid_argument for a name that is unknown, not supported here or refused by the self-test.
const Kernels& kernels();
const Kernels& kernels_named(const char* name);

// The paths this processor and operating system run, slowest first, ended by nullptr.
const Kernels* const* supported_kernels();

// One dequantised row [columns] of w: scale * code + minimum, rounded once per operation (no fma).
void dequantize_row(const PackedMatrix& w, int64_t row, float* out);

// exp and silu shared by all paths: fixed polynomial, identical bits everywhere.
float exp_fixed(float x);
float silu_fixed(float x);

}  // namespace moecompress
