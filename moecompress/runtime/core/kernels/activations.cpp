// The workspace behind `Activations`: five arrays, each starting on a 64-byte line.
#include "kernels/kernels.h"

namespace moecompress {
namespace {

size_t lines(int64_t bytes) { return (static_cast<size_t>(bytes) + 63) / 64 * 64; }

int64_t blocks_of(int64_t columns) { return (columns + block_columns - 1) / block_columns; }

}  // namespace

size_t Activations::workspace_bytes(int64_t tokens, int64_t columns) {
    const int64_t blocks = tokens * blocks_of(columns);
    return 2 * lines(blocks * block_columns) + lines(blocks * block_columns * 2) + 2 * lines(blocks * 4);
}

Activations Activations::in(uint8_t* workspace, int64_t tokens, int64_t columns, const float* values) {
    const int64_t blocks = tokens * blocks_of(columns);
    const size_t plane = lines(blocks * block_columns);
    Activations x;
    x.tokens = tokens;
    x.columns = columns;
    x.values = values;
    x.high = reinterpret_cast<int8_t*>(workspace);
    x.low = reinterpret_cast<int8_t*>(workspace += plane);
    x.integers = reinterpret_cast<int16_t*>(workspace += plane);
    x.scale = reinterpret_cast<float*>(workspace += lines(blocks * block_columns * 2));
    x.sum = reinterpret_cast<int32_t*>(workspace += lines(blocks * 4));
    return x;
}

}  // namespace moecompress
