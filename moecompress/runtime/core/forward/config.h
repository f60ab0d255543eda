// Every flag of the one forward pass. A family is a setting of these, written in Python (runtime/families).
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace moecompress {

// Of queries and keys: Qwen3 normalises each head, OLMoE the whole vector.
enum class HeadNorm { none, per_head, full };

struct LayerConfig {
    bool sparse = true;  // routed experts; otherwise one dense feed-forward
    int64_t window = 0;  // attention looks back at most this many positions, the own one included; 0: at all
};

struct ModelConfig {
    int64_t hidden = 0;
    int64_t vocabulary = 0;
    int64_t heads = 0;
    int64_t key_value_heads = 0;
    int64_t head_size = 0;
    float norm_epsilon = 0.0f;
    HeadNorm head_norm = HeadNorm::none;
    float clip = std::numeric_limits<float>::infinity();  // of queries, keys and values
    float attention_scale = 0.0f;
    std::vector<float> rope_frequencies;  // radians per position; twice as many leading head elements rotate
    float rope_scale = 1.0f;              // multiplies sine and cosine
    int64_t top_k = 0;
    bool renormalise = false;  // chosen router probabilities are divided by their sum
    std::vector<LayerConfig> layers;

    int64_t query_size() const { return heads * head_size; }
    int64_t key_value_size() const { return key_value_heads * head_size; }
    // Throws std::invalid_argument for values the forward pass cannot run.
    void check() const;
};

}  // namespace moecompress
