// exp and silu as one fixed sequence of correctly rounded operations, for any type of lanes.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2. The polynomial is a minimax fit of
// (exp(r) - 1 - r) / r^2 with a relative error of exp(r) below 1e-8; rounding leaves exp within 1.5 units in the last
// place, subnormal results and the overflow to infinity included.
#pragma once

#include "kernels/layout.h"

namespace moecompress {
namespace {

constexpr float exp_largest = 89.0f;      // exp overflows to infinity above 88.73
constexpr float exp_smallest = -104.0f;   // and rounds to zero below -103.98
constexpr float round_shift = 0x1.8p23f;  // adding it rounds to an integer, which then stands in the low bits

// V is a struct of float lanes with static functions: all(c) is c in every lane; times_power(p, n) is p * 2^n with n
// read from the low bits of a value shifted by round_shift; larger(a, b) is a where a > b, else b, and smaller(a, b) is
// a where a < b, else b, so that a NaN in b stays.
template <class V>
inline V exp_lanes(V x) {
    x = V::smaller(V::all(exp_largest), V::larger(V::all(exp_smallest), x));
    const V shifted = V::fused(x, V::all(0x1.715476p0f), V::all(round_shift));
    const V n = V::minus(shifted, V::all(round_shift));
    V r = V::fused(n, V::all(-0x1.63p-1f), x);    // ln 2, upper bits: exact
    r = V::fused(n, V::all(0x1.bd0106p-13f), r);  // and the rest
    V q = V::all(0x1.6a231ap-10f);
    q = V::fused(q, r, V::all(0x1.123a8ep-7f));
    q = V::fused(q, r, V::all(0x1.5558f6p-5f));
    q = V::fused(q, r, V::all(0x1.55549p-3f));
    q = V::fused(q, r, V::all(0x1.fffffcp-2f));
    const V p = V::plus(V::fused(V::times(r, r), q, r), V::all(1.0f));
    return V::times_power(p, shifted);
}

// x / (1 + exp(-x)).
template <class V>
inline V silu_lanes(V x) {
    return V::divided(x, V::plus(V::all(1.0f), exp_lanes(V::minus(V::all(0.0f), x))));
}

}  // namespace
}  // namespace moecompress
