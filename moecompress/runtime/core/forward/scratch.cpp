#include "forward/scratch.h"

#include <algorithm>

namespace moecompress {

namespace {

Vectors take_vectors(Layout& layout, int64_t tokens, int64_t columns) {
    Vectors vectors;
    vectors.values = layout.take<float>(uint64_t(tokens * columns));
    vectors.workspace = layout.take<uint8_t>(Activations::workspace_bytes(tokens, columns));
    return vectors;
}

// One row of activations may be used alone, so rows are laid out as separate single-token workspaces would be.
Vectors take_rows(Layout& layout, int64_t rows, int64_t columns) {
    Vectors vectors;
    vectors.values = layout.take<float>(uint64_t(rows * columns));
    const uint64_t together = Activations::workspace_bytes(rows, columns);
    const uint64_t apart = uint64_t(rows) * Activations::workspace_bytes(1, columns);
    vectors.workspace = layout.take<uint8_t>(std::max(together, apart));
    return vectors;
}

void place_attention(Scratch& scratch, Layout& layout, const ModelConfig& config, int64_t chunk) {
    scratch.q = layout.take<float>(uint64_t(chunk * config.query_size()));
    scratch.k = layout.take<float>(uint64_t(chunk * config.key_value_size()));
    scratch.v = layout.take<float>(uint64_t(chunk * config.key_value_size()));
    scratch.attended = take_vectors(layout, chunk, config.query_size());
    scratch.maximum = layout.take<float>(uint64_t(chunk * config.heads));
    scratch.sum = layout.take<float>(uint64_t(chunk * config.heads));
}

void place_feed_forward(Scratch& scratch, Layout& layout, const ModelConfig& config, const ScratchSizes& sizes) {
    const int64_t places = Scratch::places(config, sizes);
    scratch.router_logits = layout.take<float>(uint64_t(sizes.chunk * sizes.experts));
    scratch.chosen_weight = layout.take<float>(uint64_t(sizes.chunk * config.top_k));
    scratch.chosen = layout.take<int32_t>(uint64_t(sizes.chunk * config.top_k));
    scratch.shared_scale = layout.take<float>(uint64_t(sizes.chunk));
    scratch.gathered = take_vectors(layout, sizes.chunk, config.hidden);
    scratch.gate = take_rows(layout, places, sizes.width);
    scratch.up = layout.take<float>(uint64_t(places * sizes.width));
    scratch.expert_out = layout.take<float>(uint64_t(places * config.hidden));
}

}  // namespace

int64_t Scratch::places(const ModelConfig& config, const ScratchSizes& sizes) {
    return std::max(sizes.chunk, config.top_k + 1);
}

uint64_t Scratch::place(uint8_t* base, const ModelConfig& config, const ScratchSizes& sizes) {
    Layout layout(base);
    residual = layout.take<float>(uint64_t(sizes.chunk * config.hidden));
    normed = take_vectors(layout, sizes.chunk, config.hidden);
    block_out = layout.take<float>(uint64_t(sizes.chunk * config.hidden));
    cosine = layout.take<float>(uint64_t(sizes.chunk) * config.rope_frequencies.size());
    sine = layout.take<float>(uint64_t(sizes.chunk) * config.rope_frequencies.size());
    const uint64_t common = layout.used();
    place_attention(*this, layout, config, sizes.chunk);
    const uint64_t attention = layout.used();
    layout.rewind(common);
    place_feed_forward(*this, layout, config, sizes);
    return std::max(attention, layout.used());
}

}  // namespace moecompress
