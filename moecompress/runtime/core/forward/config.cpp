#include "forward/config.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "forward/attention.h"

namespace moecompress {

namespace {

void require(bool condition, const std::string& sentence) {
    if (!condition) throw std::invalid_argument("The model's configuration cannot be run: " + sentence);
}

bool between(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

// Angles are reduced exactly below 2^20 radians a step; anything near that is no rotary embedding.
bool usable_frequency(float frequency) { return std::fabs(frequency) <= float(1 << 20); }

}  // namespace

void ModelConfig::check() const {
    constexpr int64_t most = 1 << 24;
    require(between(hidden, 1, most), "the hidden size must lie between 1 and 2^24.");
    require(between(vocabulary, 1, most), "the vocabulary must lie between 1 and 2^24.");
    require(between(heads, 1, 4096), "the number of attention heads must lie between 1 and 4096.");
    require(between(key_value_heads, 1, heads) && heads % key_value_heads == 0,
            "the number of attention heads must be a multiple of the number of key-value heads.");
    require(between(head_size, 1, largest_head), "the head size must lie between 1 and 256.");
    require(2 * int64_t(rope_frequencies.size()) <= head_size, "more elements rotate than a head has.");
    require(std::all_of(rope_frequencies.begin(), rope_frequencies.end(), usable_frequency),
            "a rotary frequency is not a number between -2^20 and 2^20.");
    require(between(top_k, 1, 1024), "the number of experts per token must lie between 1 and 1024.");
    require(between(int64_t(layers.size()), 1, 65536), "the number of layers must lie between 1 and 65536.");
    require(std::all_of(layers.begin(), layers.end(), [](const LayerConfig& layer) { return layer.window >= 0; }),
            "a layer's window is negative.");
    require(norm_epsilon >= 0.0f && std::isfinite(attention_scale) && std::isfinite(rope_scale) && clip > 0.0f,
            "a scale, the clip or the norm's epsilon is not a usable number.");
}

}  // namespace moecompress
