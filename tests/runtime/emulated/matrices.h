// Random packed matrices and activations that own their memory.
#pragma once

#include <cstdlib>
#include <memory>

#include "kernels/kernels.h"
#include "numbers.h"

namespace moecompress {

struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
};

// Exactly `bytes` bytes that begin on a 64-byte line, so that a sanitizer sees a read past their end.
inline std::unique_ptr<uint8_t, Free> lines_of(int64_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(bytes)) != 0) std::abort();
    return std::unique_ptr<uint8_t, Free>(static_cast<uint8_t*>(memory));
}

struct Weight {
    PackedMatrix matrix;
    std::unique_ptr<uint8_t, Free> memory;

    Weight(Codec codec, int bits, int group_size, int64_t rows, int64_t columns) {
        matrix = {codec, bits, group_size, rows, columns, nullptr};
        memory = lines_of(matrix.bytes());
        matrix.data = memory.get();
    }

    // Scales and minima are any finite halves; codes are random, or all at their largest.
    static Weight affine(int bits, int group_size, int64_t rows, int64_t columns, bool largest, Numbers& numbers) {
        Weight made(Codec::affine, bits, group_size, rows, columns);
        uint8_t* at = made.memory.get();
        const int64_t block_bytes = 64 * bits;
        for (int64_t tile = 0; tile < made.matrix.tiles(); ++tile)
            for (int64_t block = 0; block < made.matrix.blocks(); ++block) {
                if (block % (group_size / block_columns) == 0)
                    for (int i = 0; i < 32; ++i, at += 2) put(at, numbers.half());
                for (int64_t i = 0; i < block_bytes; ++i) *at++ = static_cast<uint8_t>(largest ? 255 : numbers.bits());
            }
        return made;
    }

    static Weight dense(Codec codec, int64_t rows, int64_t columns, Numbers& numbers) {
        Weight made(codec, 0, 0, rows, columns);
        const int64_t bytes = codec == Codec::dense_bf16 ? 2 : 4;
        for (int64_t at = 0; at < made.matrix.bytes(); at += bytes) {
            const float value = numbers.wide();
            uint8_t stored[4];
            std::memcpy(stored, &value, 4);
            std::memcpy(made.memory.get() + at, stored + 4 - bytes, static_cast<size_t>(bytes));
        }
        return made;
    }

private:
    static void put(uint8_t* at, uint16_t half) { std::memcpy(at, &half, 2); }
};

// Activations of ordinary tokens, and of ones at the limits of the integers, of zeros, of subnormals, and with one
// value that is not finite.
struct Inputs {
    std::vector<float> values;
    std::unique_ptr<uint8_t, Free> memory;
    Activations x;

    Inputs(int64_t tokens, int64_t columns, Numbers& numbers) : values(numbers.vector(tokens * columns)) {
        for (int64_t token = 0; token < tokens; ++token)
            shape(values.data() + token * columns, columns, token, numbers);
        const auto bytes = static_cast<int64_t>(Activations::workspace_bytes(tokens, columns));
        memory = lines_of(bytes);
        std::memset(memory.get(), 0, static_cast<size_t>(bytes));
        x = Activations::in(memory.get(), tokens, columns, values.data());
    }

private:
    static void shape(float* token, int64_t columns, int64_t number, Numbers& numbers) {
        const float infinity = std::numeric_limits<float>::infinity();
        const float strange[3] = {std::nanf(""), infinity, -infinity};
        const int64_t kind = number % 8;
        for (int64_t k = 0; k < columns; ++k) {
            if (kind == 3) token[k] = numbers.below(2) ? 32512.0f : -32384.0f;
            if (kind == 4) token[k] = 32512.0f;
            if (kind == 5) token[k] = 0.0f;
            if (kind == 6) token[k] = std::ldexp(token[k], -130);
        }
        if (kind == 7) token[numbers.below(static_cast<int>(columns))] = strange[numbers.below(3)];
    }
};

}  // namespace moecompress
