#include "forward/feed_forward.h"

namespace moecompress {

void feed_forward(const Machine& machine, const FeedForward& weights, const Activations& input, const Scratch& scratch,
                  float* out) {
    const int64_t width = weights.gate.rows;
    float* const gate = scratch.gate.values;
    machine.multiply({{weights.gate, input, gate, width}, {weights.up, input, scratch.up, width}});
    const Activations middle = scratch.gate.activations(input.tokens, width);
    machine.pool.run(input.tokens, [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token)
            machine.kernels.silu_multiply(gate + token * width, scratch.up + token * width, gate + token * width, width);
        machine.kernels.quantize(middle, first, last);
    });
    machine.multiply({{weights.down, middle, out, weights.down.rows}});
}

}  // namespace moecompress
