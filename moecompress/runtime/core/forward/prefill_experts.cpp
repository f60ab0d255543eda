// Many tokens: expert by expert in ascending order, each for all its tokens, while the next ones are read. A record is
// read at most once, and the slots of experts that only pass through are the first to be used again, so a long prompt
// does not sweep the cache.
#include <algorithm>
#include <cstring>

#include "forward/sparse_block.h"

namespace moecompress {

namespace {

constexpr int experts_read_ahead = 8;     // of the one being computed
constexpr int64_t copy_operations = 16;  // what an element that is only moved or added costs, in multiply-adds

// The quantised form of one token.
void copy_token(const Activations& from, int64_t token, const Activations& to, int64_t place) {
    for (int64_t block = 0; block < from.blocks(); ++block) {
        const int64_t source = from.place(block, token), target = to.place(block, place);
        std::copy_n(from.integers + source * block_columns, block_columns, to.integers + target * block_columns);
        std::copy_n(from.high + source * block_columns, block_columns, to.high + target * block_columns);
        std::copy_n(from.low + source * block_columns, block_columns, to.low + target * block_columns);
        to.scale[target] = from.scale[source];
        to.sum[target] = from.sum[source];
    }
}

}  // namespace

void SparseBlock::prefill(const LayerWeights& weights, int table, const Activations& input) {
    {
        const LayerWork work(store_, table, Phase::prefill, wanted_);
        const int most = store_.overlap() ? experts_read_ahead : 0;
        std::vector<uint8_t> read(wanted_.size(), 0);
        int reading = 0;  // requested, not in memory then, and not computed yet
        size_t requested = 0;
        for (size_t i = 0; i < wanted_.size(); ++i) {
            for (; requested < wanted_.size() && (requested <= i || reading <= most); ++requested) {
                const int expert = wanted_[requested];
                read[requested] = !store_.present(expert);
                if (!store_.request(expert, lasting_[size_t(expert)] != 0)) break;
                reading += read[requested];
            }
            prefill_expert(wanted_[i], input);
            store_.release(wanted_[i]);
            reading -= read[i];
        }
    }
    if (!weights.shared.present()) return;
    feed_forward(machine_, weights.shared, input, scratch_, scratch_.expert_out);
    add_shared(weights, input, scratch_.expert_out);
}

void SparseBlock::prefill_expert(int expert, const Activations& input) {
    const int64_t* const slots = slots_.data() + first_[size_t(expert)];
    const int64_t count = first_[size_t(expert) + 1] - first_[size_t(expert)];
    const FeedForward weights = store_.get(expert);
    const bool coded = weights.gate.codec == Codec::affine && weights.up.codec == Codec::affine;
    feed_forward(machine_, weights, gather(input, slots, count, !coded), scratch_, scratch_.expert_out);
    machine_.run(count, count * config_.hidden * copy_operations, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float* const out = scratch_.block_out + slots[i] / config_.top_k * config_.hidden;
            machine_.kernels.add_scaled(out, scratch_.expert_out + i * config_.hidden, scratch_.chosen_weight[slots[i]],
                                        config_.hidden);
        }
    });
}

Activations SparseBlock::gather(const Activations& input, const int64_t* slots, int64_t count, bool values) const {
    const Activations gathered = scratch_.gathered.activations(count, config_.hidden);
    machine_.run(count, count * config_.hidden * copy_operations, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t token = slots[i] / config_.top_k;
            copy_token(input, token, gathered, i);
            if (!values) continue;
            std::memcpy(scratch_.gathered.values + i * config_.hidden, input.values + token * config_.hidden,
                        size_t(config_.hidden) * sizeof(float));
        }
    });
    return gathered;
}

}  // namespace moecompress
