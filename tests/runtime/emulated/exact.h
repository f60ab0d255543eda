// a * b + c in every float lane of a register, rounded once.
#ifndef MOECOMPRESS_EMULATED_EXACT
#define MOECOMPRESS_EMULATED_EXACT

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

template <class Register>
Register fused(Register a, Register b, Register c) {
    constexpr int lanes = sizeof(Register) / sizeof(float);
    float x[lanes], y[lanes], z[lanes];
    std::memcpy(x, &a, sizeof x);
    std::memcpy(y, &b, sizeof y);
    std::memcpy(z, &c, sizeof z);
    for (int i = 0; i < lanes; ++i) x[i] = std::fma(x[i], y[i], z[i]);
    std::memcpy(&a, x, sizeof a);
    return a;
}

}  // namespace emulated

#endif
