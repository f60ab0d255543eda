// The reference path: plain C++ that says what every other path must compute, bit for bit.
#include <cmath>
#include <vector>

#include "kernels/paths.h"
#include "kernels/unpack.h"

namespace moecompress {
namespace {

constexpr int lanes = 16;

uint32_t largest_bits(const float* values, int64_t count) {
    uint32_t largest = 0;
    for (int64_t k = 0; k < count; ++k) {
        const uint32_t magnitude = to_bits(values[k]) & 0x7fffffff;
        if (magnitude > largest) largest = magnitude;
    }
    return largest;
}

// round_half_even(value / scale) within the limit; the order of comparisons is that of x86 min and max.
int32_t quantized(float value, float scale) {
    float ratio = value / scale;
    ratio = ratio < integer_limit ? ratio : integer_limit;
    ratio = ratio > -integer_limit ? ratio : -integer_limit;
    return static_cast<int32_t>(std::nearbyint(ratio));
}

void quantize_block(const float* values, int64_t count, const Activations& x, int64_t at) {
    const float scale = activation_scale(largest_bits(values, count));
    x.scale[at] = scale;
    x.sum[at] = 0;
    for (int64_t k = 0; k < block_columns; ++k) {
        const int32_t value = k < count && scale > 0.0f ? quantized(values[k], scale) : 0;
        const int32_t high = (value + 128) >> 8;
        x.high[at * block_columns + k] = static_cast<int8_t>(high);
        x.low[at * block_columns + k] = static_cast<int8_t>(value - high * 256);
        x.integers[at * block_columns + k] = static_cast<int16_t>(value);
        x.sum[at] += value;
    }
}

void quantize(const Activations& x, int64_t first, int64_t last) {
    for (int64_t token = first; token < last; ++token) {
        for (int64_t block = 0; block < x.blocks(); ++block) {
            const int64_t start = block * block_columns;
            quantize_block(x.values + token * x.columns + start, smaller_of(block_columns, x.columns - start), x,
                           x.place(block, token));
        }
    }
}

// sums[row] += block's contribution for one token: the exact integer dot, then two fused operations.
void add_block(const uint8_t codes[quads][vector_bytes], const float* scale, const float* minimum, const Activations& x,
               int64_t at, float* sums) {
    int32_t dots[tile_rows] = {};
    for (int column = 0; column < block_columns; ++column) {
        const int32_t activation = x.integers[at * block_columns + column];
        const uint8_t* quad = codes[column / 4] + column % 4;
        for (int row = 0; row < tile_rows; ++row) dots[row] += quad[row * 4] * activation;
    }
    const float total = static_cast<float>(x.sum[at]);
    for (int row = 0; row < tile_rows; ++row) {
        const float term = std::fma(scale[row], static_cast<float>(dots[row]), minimum[row] * total);
        sums[row] = std::fma(x.scale[at], term, sums[row]);
    }
}

// One tile for tokens [first, last), at most `lanes` of them: each block is unpacked once for all.
void affine_tile(const PackedMatrix& w, const uint8_t* data, const Activations& x, int64_t first, int64_t last,
                 float sums[lanes][tile_rows]) {
    uint8_t codes[quads][vector_bytes];
    float scale[tile_rows], minimum[tile_rows];
    const int64_t group_blocks = w.group_size / block_columns;
    for (int64_t block = 0; block < w.blocks(); ++block) {
        if (block % group_blocks == 0) {
            for (int row = 0; row < tile_rows; ++row) {
                scale[row] = half_to_float(load_u16(data + row * 2));
                minimum[row] = half_to_float(load_u16(data + 32 + row * 2));
            }
            data += header_bytes;
        }
        unpack_block(data, w.bits, codes);
        for (int64_t token = first; token < last; ++token)
            add_block(codes, scale, minimum, x, x.place(block, token), sums[token - first]);
        data += block_bytes(w.bits);
    }
}

float dense_value(const PackedMatrix& w, const uint8_t* data, int64_t at) {
    if (w.codec == Codec::dense_bf16) return bf16_to_float(load_u16(data + at * 2));
    float value;
    std::memcpy(&value, data + at * 4, sizeof value);
    return value;
}

// Four partial sums by column mod 4, added as (0 + 1) + (2 + 3).
void dense_tile(const PackedMatrix& w, const uint8_t* data, const float* values, float* sums) {
    float parts[4][tile_rows] = {};
    for (int64_t k = 0; k < w.columns; ++k)
        for (int row = 0; row < tile_rows; ++row)
            parts[k % 4][row] = std::fma(dense_value(w, data, k * tile_rows + row), values[k], parts[k % 4][row]);
    for (int row = 0; row < tile_rows; ++row)
        sums[row] = (parts[0][row] + parts[1][row]) + (parts[2][row] + parts[3][row]);
}

void multiply(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
              int64_t y_stride) {
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
        const uint8_t* data = w.data + tile * w.tile_bytes();
        for (int64_t first = 0; first < x.tokens; first += lanes) {
            const int64_t last = smaller_of(first + lanes, x.tokens);
            float sums[lanes][tile_rows] = {};
            if (w.codec == Codec::affine) affine_tile(w, data, x, first, last, sums);
            for (int64_t token = first; token < last; ++token) {
                float* const row_sums = sums[token - first];
                if (w.codec != Codec::affine) dense_tile(w, data, x.values + token * x.columns, row_sums);
                std::memcpy(y + token * y_stride + tile * tile_rows, row_sums, rows_in_tile(w, tile) * sizeof(float));
            }
        }
    }
}

void silu_multiply(const float* gate, const float* up, float* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = silu_fixed(gate[i]) * up[i];
}

void exp_shifted(float* x, float shift, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = exp_fixed(x[i] - shift);
}

float dot(const float* a, const float* b, int64_t count) {
    float sums[lanes] = {};
    for (int64_t i = 0; i < count; ++i) sums[i % lanes] = std::fma(a[i], b[i], sums[i % lanes]);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sums[0];
}

void add_scaled(float* y, const float* x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; ++i) y[i] = std::fma(factor, x[i], y[i]);
}

float element(const IntegerRows& rows, int64_t at) {
    if (rows.narrow) return static_cast<float>(static_cast<const int8_t*>(rows.data)[at]);
    return static_cast<float>(static_cast<const int16_t*>(rows.data)[at]);
}

void row_dots(const IntegerRows& rows, int64_t length, const Lines<const float>& x, const Lines<float>& out) {
    std::vector<float> row(static_cast<size_t>(rows.size));
    for (int64_t r = 0; r < length; ++r) {
        for (int64_t i = 0; i < rows.size; ++i) row[i] = element(rows, r * rows.size + i);
        for (int64_t v = 0; v < x.count; ++v)
            out.data[v * out.stride + r] = dot(x.data + v * x.stride, row.data(), rows.size);
    }
}

void add_rows(const IntegerRows& rows, int64_t length, const Lines<const float>& factors, const Lines<float>& y) {
    for (int64_t v = 0; v < y.count; ++v)
        for (int64_t r = 0; r < length; ++r)
            for (int64_t i = 0; i < rows.size; ++i) {
                float& sum = y.data[v * y.stride + i];
                sum = std::fma(factors.data[v * factors.stride + r], element(rows, r * rows.size + i), sum);
            }
}

}  // namespace

const Kernels scalar_kernels = {"scalar", quantize,   multiply, silu_multiply, exp_shifted,
                                dot,      add_scaled, row_dots, add_rows};

}  // namespace moecompress
