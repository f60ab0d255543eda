// Paths with one wrong function each, for the self-test to find.
#pragma once

#include <cstdio>

#include "kernels/paths.h"
#include "kernels/self_test.h"

namespace moecompress {

// The last of the values that a function writes is wrong in its last bit.
inline void spoil(float* value) {
    uint32_t bits;
    std::memcpy(&bits, value, sizeof bits);
    bits ^= 1;
    std::memcpy(value, &bits, sizeof bits);
}

inline void wrong_quantize(const Activations& x, int64_t first, int64_t last) {
    scalar_kernels.quantize(x, first, last);
    x.low[x.blocks() * block_columns * x.tokens - 1] ^= 1;
}

// Wrong for several tokens and codes of these bits; 0 stands for bf16, 9 for float32.
template <int bits>
void wrong_multiply(const PackedMatrix& w, const Activations& x, int64_t first, int64_t last, float* y,
                    int64_t stride) {
    scalar_kernels.multiply(w, x, first, last, y, stride);
    const int found = w.codec == Codec::affine ? w.bits : w.codec == Codec::dense_bf16 ? 0 : 9;
    if (found == bits && x.tokens > 1) spoil(y + (x.tokens - 1) * stride + w.rows - 1);
}

inline void wrong_silu_multiply(const float* gate, const float* up, float* out, int64_t count) {
    scalar_kernels.silu_multiply(gate, up, out, count);
    spoil(out + count - 1);
}

inline void wrong_exp_shifted(float* x, float shift, int64_t count) {
    scalar_kernels.exp_shifted(x, shift, count);
    spoil(x + count - 1);
}

inline float wrong_dot(const float* a, const float* b, int64_t count) {
    float sum = scalar_kernels.dot(a, b, count);
    spoil(&sum);
    return sum;
}

inline void wrong_add_scaled(float* y, const float* x, float factor, int64_t count) {
    scalar_kernels.add_scaled(y, x, factor, count);
    spoil(y + count - 1);
}

inline void wrong_row_dots(const IntegerRows& rows, int64_t length, const Lines<const float>& x,
                           const Lines<float>& out) {
    scalar_kernels.row_dots(rows, length, x, out);
    spoil(out.data + (out.count - 1) * out.stride + length - 1);
}

inline void wrong_add_rows(const IntegerRows& rows, int64_t length, const Lines<const float>& factors,
                           const Lines<float>& y) {
    scalar_kernels.add_rows(rows, length, factors, y);
    spoil(y.data + (y.count - 1) * y.stride + rows.size - 1);
}

inline void say(const char* mistake, const Kernels& path) { std::printf("%s: %s\n", mistake, self_test(path).c_str()); }

template <int bits>
void say_products() {
    Kernels path = scalar_kernels;
    path.multiply = wrong_multiply<bits>;
    say(("multiply" + std::to_string(bits)).c_str(), path);
    if constexpr (bits < 9) say_products<bits + 1>();
}

inline void print_mistakes() {
    say("none", scalar_kernels);
    say_products<0>();
    Kernels path = scalar_kernels;
    path.quantize = wrong_quantize;
    say("quantize", path);
    path = scalar_kernels;
    path.silu_multiply = wrong_silu_multiply;
    say("silu_multiply", path);
    path = scalar_kernels;
    path.exp_shifted = wrong_exp_shifted;
    say("exp_shifted", path);
    path = scalar_kernels;
    path.dot = wrong_dot;
    say("dot", path);
    path = scalar_kernels;
    path.add_scaled = wrong_add_scaled;
    say("add_scaled", path);
    path = scalar_kernels;
    path.row_dots = wrong_row_dots;
    say("row_dots", path);
    path = scalar_kernels;
    path.add_rows = wrong_add_rows;
    say("add_rows", path);
}

}  // namespace moecompress
