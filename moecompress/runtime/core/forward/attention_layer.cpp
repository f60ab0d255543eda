#include "forward/attention_layer.h"

#include <algorithm>
#include <cmath>

#include "forward/attention.h"
#include "forward/norm.h"
#include "forward/rope.h"

namespace moecompress {

namespace {

constexpr int64_t queries_per_task = 16;

// Bias, norm and clip of one projected vector of `count` elements in heads of `head` elements.
void finish_projection(const Kernels& kernels, const ModelConfig& config, float* x, int64_t count, const float* bias,
                       const float* norm) {
    if (bias != nullptr) add(x, bias, count);
    const int64_t span = config.head_norm == HeadNorm::per_head ? config.head_size : count;
    for (int64_t at = 0; norm != nullptr && at < count; at += span)
        rms_norm(kernels, x + at, norm, span, config.norm_epsilon, x + at);
    if (std::isfinite(config.clip)) clip(x, count, config.clip);
}

void rotate_heads(const ModelConfig& config, float* x, int64_t heads, const float* cosine, const float* sine) {
    const int64_t pairs = int64_t(config.rope_frequencies.size());
    for (int64_t head = 0; head < heads; ++head) rope_rotate(x + head * config.head_size, cosine, sine, pairs);
}

// Everything between the projections and the scores, for one token of the chunk.
void prepare_token(const Kernels& kernels, const ModelConfig& config, const LayerWeights& weights,
                   KeyValueCache& cache, int64_t layer, int64_t start, int64_t token, Scratch& scratch) {
    float* const q = scratch.q + token * config.query_size();
    float* const k = scratch.k + token * config.key_value_size();
    float* const v = scratch.v + token * config.key_value_size();
    finish_projection(kernels, config, q, config.query_size(), weights.q_bias, weights.q_norm);
    finish_projection(kernels, config, k, config.key_value_size(), weights.k_bias, weights.k_norm);
    finish_projection(kernels, config, v, config.key_value_size(), weights.v_bias, nullptr);
    const int64_t pairs = int64_t(config.rope_frequencies.size());
    const float* const cosine = scratch.cosine + token * pairs;
    const float* const sine = scratch.sine + token * pairs;
    rotate_heads(config, q, config.heads, cosine, sine);
    rotate_heads(config, k, config.key_value_heads, cosine, sine);
    for (int64_t head = 0; head < config.key_value_heads; ++head) {
        cache.store_key(layer, head, start + token, k + head * config.head_size);
        cache.store_value(layer, head, start + token, v + head * config.head_size);
    }
}

// The task of `block` of the queries that read key-value head `head`.
AttentionTask task_of(const ModelConfig& config, const KeyValueCache& cache, int64_t layer, int64_t start,
                      int64_t tokens, int64_t head, int64_t block, Scratch& scratch) {
    AttentionTask task;
    task.group = config.heads / config.key_value_heads;
    const int64_t column = head * task.group * config.head_size;
    task.keys = cache.keys(layer, head);
    task.values = cache.values(layer, head);
    task.queries = scratch.q + column;
    task.output = scratch.attended.values + column;
    task.maximum = scratch.maximum + head * task.group * tokens;
    task.sum = scratch.sum + head * task.group * tokens;
    task.row_stride = config.query_size();
    task.head_size = config.head_size;
    task.start = start;
    task.first = block * queries_per_task;
    task.last = std::min(tokens, task.first + queries_per_task);
    task.window = config.layers[layer].window;
    task.scale = config.attention_scale;
    return task;
}

}  // namespace

void attention_layer(const Machine& machine, const ModelConfig& config, const LayerWeights& weights,
                     KeyValueCache& cache, int64_t layer, int64_t start, int64_t tokens, Scratch& scratch) {
    const Activations input = scratch.normed.activations(tokens, config.hidden);
    machine.multiply({{weights.q, input, scratch.q, config.query_size()},
                      {weights.k, input, scratch.k, config.key_value_size()},
                      {weights.v, input, scratch.v, config.key_value_size()}});
    machine.run(tokens, tokens * element_operations * config.query_size(), [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token)
            prepare_token(machine.kernels, config, weights, cache, layer, start, token, scratch);
    });
    const int64_t blocks = (tokens + queries_per_task - 1) / queries_per_task;
    const int64_t scores = tokens * (start + tokens) * config.query_size();
    machine.run(config.key_value_heads * blocks, 2 * scores, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; ++item)
            attend(machine.kernels,
                   task_of(config, cache, layer, start, tokens, item / blocks, item % blocks, scratch));
    });
    const Activations attended = scratch.attended.activations(tokens, config.query_size());
    machine.run(tokens, tokens * element_operations * config.query_size(),
                [&](int64_t first, int64_t last) { machine.kernels.quantize(attended, first, last); });
    machine.multiply({{weights.o, attended, scratch.block_out, config.hidden}});
    for (int64_t token = 0; weights.o_bias != nullptr && token < tokens; ++token)
        add(scratch.block_out + token * config.hidden, weights.o_bias, config.hidden);
}

}  // namespace moecompress
