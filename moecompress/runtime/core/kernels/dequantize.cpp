// One row of a packed matrix as float32: embeddings, and the oracle of the tests.
#include "kernels/unpack.h"

namespace moecompress {
namespace {

void affine_row(const PackedMatrix& w, const uint8_t* tile, int row, float* out) {
    for (int64_t first = 0; first < w.columns; first += w.group_size) {
        const float scale = half_to_float(load_u16(tile + row * 2));
        const float minimum = half_to_float(load_u16(tile + 32 + row * 2));
        tile += header_bytes;
        const int64_t last = smaller_of(first + w.group_size, w.columns);
        for (int64_t start = first; start < last; start += block_columns, tile += block_bytes(w.bits)) {
            const int64_t count = smaller_of(block_columns, last - start);
            for (int64_t k = 0; k < count; ++k) {
                const float product = scale * static_cast<float>(code_at(tile, w.bits, row, static_cast<int>(k)));
                out[start + k] = product + minimum;
            }
        }
    }
}

}  // namespace

void dequantize_row(const PackedMatrix& w, int64_t row, float* out) {
    const uint8_t* tile = w.data + row / tile_rows * w.tile_bytes();
    const int lane = static_cast<int>(row % tile_rows);
    if (w.codec == Codec::affine) return affine_row(w, tile, lane, out);
    for (int64_t k = 0; k < w.columns; ++k) {
        const int64_t at = k * tile_rows + lane;
        if (w.codec == Codec::dense_bf16)
            out[k] = bf16_to_float(load_u16(tile + at * 2));
        else
            std::memcpy(out + k, tile + at * 4, 4);
    }
}

}  // namespace moecompress
