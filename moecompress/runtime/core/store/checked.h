// Sizes from files are multiplied and added with overflow checks before anything is allocated.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace moecompress {

inline uint64_t checked_add(uint64_t a, uint64_t b) {
    uint64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) throw std::invalid_argument("A size in the model does not fit in 64 bits.");
    return sum;
}

inline uint64_t checked_multiply(uint64_t a, uint64_t b) {
    uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product))
        throw std::invalid_argument("A size in the model does not fit in 64 bits.");
    return product;
}

// `unit` is a power of two.
inline uint64_t round_up(uint64_t value, uint64_t unit) { return checked_add(value, unit - 1) & ~(unit - 1); }

}  // namespace moecompress
