// exp and silu of single values: the lanes of exponential.h, one wide.
#include <cmath>

#include "kernels/exponential.h"

namespace moecompress {
namespace {

float power_of_two(int32_t n) { return from_bits(static_cast<uint32_t>(n + 127) << 23); }

struct Single {
    float value;

    static Single all(float c) { return {c}; }
    static Single plus(Single a, Single b) { return {a.value + b.value}; }
    static Single minus(Single a, Single b) { return {a.value - b.value}; }
    static Single times(Single a, Single b) { return {a.value * b.value}; }
    static Single divided(Single a, Single b) { return {a.value / b.value}; }
    static Single fused(Single a, Single b, Single c) { return {std::fma(a.value, b.value, c.value)}; }
    static Single larger(Single a, Single b) { return a.value > b.value ? a : b; }
    static Single smaller(Single a, Single b) { return a.value < b.value ? a : b; }
    // In two steps, so that 2^n itself need be neither finite nor normal. For a NaN n is arbitrary and p is NaN.
    static Single times_power(Single p, Single shifted) {
        const int32_t n = static_cast<int32_t>(to_bits(shifted.value) - to_bits(round_shift));
        const int32_t half = n >> 1;
        return {p.value * power_of_two(half) * power_of_two(n - half)};
    }
};

}  // namespace

float exp_fixed(float x) { return exp_lanes(Single{x}).value; }

float silu_fixed(float x) { return silu_lanes(Single{x}).value; }

}  // namespace moecompress
