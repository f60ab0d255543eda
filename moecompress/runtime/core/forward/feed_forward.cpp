#include "forward/feed_forward.h"

namespace moecompress {

void feed_forward(const Machine& machine, const FeedForward& weights, const Activations& input, const Scratch& scratch,
                  float* out) {
    const int64_t width = weights.gate.rows;
    float* const gate = scratch.gate.values;
    machine.multiply({{weights.gate, input, gate, width}, {weights.up, input, scratch.up, width}});
    const Activations middle = scratch.gate.activations(input.tokens, width);
    machine.run(input.tokens, input.tokens * element_operations * width, [&](int64_t first, int64_t last) {
        const int64_t start = first * width;
        machine.kernels.silu_multiply(gate + start, scratch.up + start, gate + start, last * width - start);
        machine.kernels.quantize(middle, first, last);
    });
    machine.multiply({{weights.down, middle, out, weights.down.rows}});
}

}  // namespace moecompress
