// Sizes and checks of packed matrices.
#include "kernels/layout.h"

#include <stdexcept>
#include <string>

namespace moecompress {

int64_t PackedMatrix::tile_bytes() const {
    switch (codec) {
        case Codec::dense_bf16: return columns * tile_rows * 2;
        case Codec::dense_f32: return columns * tile_rows * 4;
        case Codec::affine: break;
    }
    const int64_t groups = (columns + group_size - 1) / group_size;
    return groups * header_bytes + blocks() * block_bytes(bits);
}

void PackedMatrix::check() const {
    constexpr int64_t largest = int64_t{1} << 31, most_elements = int64_t{1} << 48;
    if (rows < 1 || columns < 1 || rows > largest || columns > largest || rows > most_elements / columns)
        throw std::invalid_argument("A matrix of shape [" + std::to_string(rows) + ", " + std::to_string(columns) +
                                    "] cannot be multiplied; both sides must lie between 1 and 2^31, and there must be "
                                    "at most 2^48 elements.");
    if (codec == Codec::dense_bf16 || codec == Codec::dense_f32) return;
    if (codec != Codec::affine)
        throw std::invalid_argument("Codec number " + std::to_string(static_cast<int>(codec)) +
                                    " is unknown to the kernels; known are 0 (dense bf16), 1 (dense f32), 2 (affine).");
    if (bits < 1 || bits > 8)
        throw std::invalid_argument("Affine codes of " + std::to_string(bits) +
                                    " bits are unknown; allowed are 1 to 8.");
    if (group_size != 32 && group_size != 64 && group_size != 128)
        throw std::invalid_argument("Affine group size " + std::to_string(group_size) +
                                    " is unknown; allowed are 32, 64 and 128.");
}

}  // namespace moecompress
