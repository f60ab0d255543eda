// The numbers of a comparison: the same on every machine, of every size, with the ones that are special.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace moecompress {

class Numbers {
public:
    explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

    uint32_t bits() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        const uint32_t mixed = static_cast<uint32_t>((state_ >> 18 ^ state_) >> 27);
        const int turn = static_cast<int>(state_ >> 59);
        return mixed >> turn | mixed << (-turn & 31);
    }
    int below(int count) { return static_cast<int>(bits() % static_cast<uint32_t>(count)); }
    float between(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 8) * 0x1p-24f; }
    float wide() { return std::ldexp(between(-1, 1), below(21) - 10); }
    // A finite half: all signs, exponents and fractions, zero and subnormals included.
    uint16_t half() { return static_cast<uint16_t>((bits() & 0x83ff) | below(31) << 10); }

    std::vector<float> vector(int64_t count) {
        std::vector<float> made(static_cast<size_t>(count));
        for (float& value : made) value = wide();
        return made;
    }

private:
    uint64_t state_;
};

inline std::vector<float> special_numbers() {
    const float infinity = std::numeric_limits<float>::infinity();
    const float largest = std::numeric_limits<float>::max();
    return {0.0f,    -0.0f,   0x1p-149f, -0x1p-149f, 0x1p-126f, 88.72f,   88.73f,   89.0f,     300.0f,       -87.33f,
            -87.34f, -103.9f, -104.1f,   -300.0f,    largest,   -largest, infinity, -infinity, std::nanf("")};
}

}  // namespace moecompress
