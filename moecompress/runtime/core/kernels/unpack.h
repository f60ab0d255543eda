// Readable decoding of one affine block, for the scalar path and for row reads.
#pragma once

#include "kernels/layout.h"

namespace moecompress {
namespace {

// Code of (row, column) in a block. Planes follow each other, low bits first; within a plane of width p, quad q lies in
// vector q mod p at bit (q / p) * p.
inline int code_at(const uint8_t* block, int bits, int row, int column) {
    const int quad = column / 4;
    int code = 0;
    for (int shift = 0; shift < bits;) {
        const int width = plane_width(bits - shift);
        const uint8_t byte = block[vector_bytes * (quad % width) + row * 4 + column % 4];
        code |= ((byte >> (quad / width * width)) & ((1 << width) - 1)) << shift;
        block += vector_bytes * width;
        shift += width;
    }
    return code;
}

// All codes of a block as codes[quad][row * 4 + column % 4].
inline void unpack_block(const uint8_t* block, int bits, uint8_t codes[quads][vector_bytes]) {
    std::memset(codes, 0, quads * vector_bytes);
    for (int shift = 0; shift < bits;) {
        const int width = plane_width(bits - shift);
        for (int quad = 0; quad < quads; ++quad) {
            const uint8_t* vector = block + vector_bytes * (quad % width);
            for (int k = 0; k < vector_bytes; ++k)
                codes[quad][k] |= ((vector[k] >> (quad / width * width)) & ((1 << width) - 1)) << shift;
        }
        block += vector_bytes * width;
        shift += width;
    }
}

}  // namespace
}  // namespace moecompress
