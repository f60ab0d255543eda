#include "forward/model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "forward/attention_layer.h"
#include "forward/norm.h"
#include "forward/rope.h"
#include "store/errors.h"

namespace moecompress {

namespace {

ScratchSizes sizes_of(const ModelFiles& files, int64_t chunk) {
    ScratchSizes sizes;
    sizes.chunk = chunk;
    for (const TrunkEntry& entry : files.trunk) {
        const std::string& role = entry.role;
        const bool gate = role.size() > 5 && role.compare(role.size() - 5, 5, ".gate") == 0;
        if (gate) sizes.width = std::max(sizes.width, entry.tensor.rows);
    }
    for (const ExpertLayer& layer : files.experts) {
        sizes.experts = std::max(sizes.experts, int64_t(layer.experts.size()));
        for (const ExpertEntry& expert : layer.experts) sizes.width = std::max(sizes.width, expert.gate.rows);
    }
    return sizes;
}

// Everything that can be said without opening a file, so that no size below is multiplied unchecked.
void check_tables(const ModelConfig& config, const ModelFiles& files) {
    config.check();
    for (const TrunkEntry& entry : files.trunk) check_entry(entry, std::numeric_limits<uint64_t>::max());
    for (const ExpertLayer& layer : files.experts)
        check_layer(layer, config.hidden, std::numeric_limits<uint64_t>::max());
}

const ModelConfig& checked(const ModelConfig& config, const ModelFiles& files, const ModelOptions& options) {
    check_tables(config, files);
    const auto sparse = std::count_if(config.layers.begin(), config.layers.end(),
                                      [](const LayerConfig& layer) { return layer.sparse; });
    if (sparse != int64_t(files.experts.size()))
        throw std::invalid_argument("The artifact has expert tables for " + std::to_string(files.experts.size()) +
                                    " layers, the configuration asks for " + std::to_string(sparse) + ".");
    if (options.context < 1 || options.context > 1 << 24 || options.chunk < 1 || options.chunk > 4096)
        throw std::invalid_argument("The context must lie between 1 and 2^24, the chunk between 1 and 4096 tokens.");
    if (options.threads < 1 || options.threads > 1024 || options.store.lanes < 1 || options.store.lanes > 64)
        throw std::invalid_argument("Threads must lie between 1 and 1024, reader lanes between 1 and 64.");
    const int slots = options.store.slots;
    if (slots < 0 || (slots > 0 && slots < config.top_k))
        throw std::invalid_argument("The cache needs at least " + std::to_string(config.top_k) + " slots, not " +
                                    std::to_string(slots) + ".");
    return config;
}

Region scratch_region(const ModelConfig& config, const ScratchSizes& sizes) {
    return Region(Scratch().place(nullptr, config, sizes));
}

}  // namespace

MemoryNeeds Model::needs(const ModelConfig& config, const ModelFiles& files, int64_t context, int64_t chunk,
                         KeyValueType key_values) {
    check_tables(config, files);
    MemoryNeeds needs;
    needs.trunk = Trunk::bytes(files.trunk);
    needs.key_value = KeyValueCache::bytes(config, context, key_values);
    needs.scratch = Scratch().place(nullptr, config, sizes_of(files, chunk));
    needs.sampling = Sampler::bytes(config.vocabulary);
    needs.slot = ExpertSlots::largest_record(files.experts);
    needs.all_experts = ExpertSlots::total_bytes(files.experts);
    needs.experts = ExpertSlots::total_experts(files.experts);
    return needs;
}

Model::Model(const ModelConfig& config, const ModelFiles& files, const ModelOptions& options)
    : config_(checked(config, files, options)),
      chunk_(options.chunk),
      trunk_(load_trunk(Folder(files.folder), config_, files.trunk)),
      cache_(config_, options.context, options.key_values),
      sizes_(sizes_of(files, options.chunk)),
      scratch_memory_(scratch_region(config_, sizes_)),
      pool_(options.threads),
      machine_{options.isa.empty() ? moecompress::kernels() : kernels_named(options.isa.c_str()), pool_},
      store_(ExpertStore::open(Folder(files.folder), files.experts, config_.hidden, options.store)),
      sparse_(machine_, config_, *store_, scratch_, sizes_),
      sampler_(config_.vocabulary) {
    scratch_.place(scratch_memory_.data(), config_, sizes_);
    size_t table = 0;
    for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
        if (!config_.layers[layer].sparse) continue;
        const ExpertLayer& experts = store_->layers()[table++];
        if (experts.layer != int(layer) || int64_t(experts.experts.size()) != trunk_.layers[layer].router.rows)
            throw std::invalid_argument("The router of layer " + std::to_string(layer) +
                                        " does not fit the artifact's table of experts.");
        if (config_.top_k > trunk_.layers[layer].router.rows)
            throw std::invalid_argument("Layer " + std::to_string(layer) + " has fewer experts than a token needs.");
    }
    look_ahead(options);
}

void Model::look_ahead(const ModelOptions& options) {
    if (options.store.speculation == Speculation::off) return;
    PredictorSetup setup;
    std::vector<const LayerWeights*> layers;
    for (size_t layer = 0; layer < config_.layers.size(); ++layer)
        if (config_.layers[layer].sparse) layers.push_back(&trunk_.layers[layer]);
    for (const LayerWeights* layer : layers) setup.experts.push_back(int(layer->router.rows));
    setup.top_k = int(config_.top_k);
    setup.priors = options.priors;
    auto predictor = make_predictor(options.predictor, std::move(setup));
    if (store_->read_ahead() == nullptr) return;
    lookahead_.emplace(machine_, config_, scratch_, *store_->read_ahead(), std::move(layers), std::move(predictor));
    sparse_.look_ahead_with(&*lookahead_);
}

void Model::reset(int64_t length) {
    if (length < 0 || length > position_)
        throw std::invalid_argument("Cannot keep " + std::to_string(length) + " positions of " +
                                    std::to_string(position_) + ".");
    position_ = length;
    cancelled_.store(false);
}

void Model::check_tokens(const int32_t* tokens, int64_t count) const {
    if (count < 1) throw std::invalid_argument("A forward pass needs at least one token.");
    if (count > context() - position_)
        throw std::invalid_argument(std::to_string(count) + " tokens after " + std::to_string(position_) +
                                    " do not fit a context of " + std::to_string(context()) + ".");
    for (int64_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || tokens[i] >= config_.vocabulary)
            throw std::invalid_argument("Token id " + std::to_string(tokens[i]) + " lies outside the vocabulary of " +
                                        std::to_string(config_.vocabulary) + ".");
}

void Model::forward(const int32_t* tokens, int64_t count, bool all, float* logits,
                    const std::function<bool()>& interrupted) {
    check_tokens(tokens, count);
    if (record_) record_->start(count);
    record_start_ = position_;
    for (int64_t done = 0; done < count;) {
        const int64_t part = std::min(chunk_, count - done);
        run_chunk(tokens + done, part, done + part == count, interrupted);
        position_ += part;
        if (all) all_logits(part, logits + done * config_.vocabulary);
        done += part;
        if (!all && done == count) last_logits(part, logits);
    }
}

int32_t Model::next(const int32_t* tokens, int64_t count, const SamplingOptions& options, double uniform,
                    const std::function<bool()>& interrupted) {
    forward(tokens, count, false, sampler_.logits(), interrupted);
    return sampler_.next(options, uniform);
}

void Model::run_chunk(const int32_t* tokens, int64_t count, bool last,
                      const std::function<bool()>& interrupted) {
    const int64_t pairs = int64_t(config_.rope_frequencies.size());
    machine_.run(count, count * element_operations * config_.hidden, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            dequantize_row(trunk_.embedding, tokens[i], scratch_.residual + i * config_.hidden);
            rope_angles(position_ + i, config_.rope_frequencies, config_.rope_scale, scratch_.cosine + i * pairs,
                        scratch_.sine + i * pairs);
        }
    });
    for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
        if (interrupted() || cancelled_.exchange(false)) throw Cancelled();
        run_layer(layer, count, last);
    }
}

void Model::run_layer(size_t layer, int64_t count, bool last) {
    const LayerWeights& weights = trunk_.layers[layer];
    normalise(weights.attention_norm, count);
    attention_layer(machine_, config_, weights, cache_, int64_t(layer), position_, count, scratch_);
    add_to_residual(count);
    normalise(weights.ffn_norm, count);
    if (config_.layers[layer].sparse) {
        const auto before = config_.layers.begin() + std::ptrdiff_t(layer);
        const auto table = std::count_if(config_.layers.begin(), before, [](const LayerConfig& l) { return l.sparse; });
        sparse_.run(weights, int(table), count, last);
        if (record_) record_layer(layer, int(table), count);
    } else {
        feed_forward(machine_, weights.dense, scratch_.normed.activations(count, config_.hidden), scratch_,
                     scratch_.block_out);
    }
    add_to_residual(count);
}

// The working memory still holds the layer's input and routing.
void Model::record_layer(size_t layer, int table, int64_t count) {
    const int64_t first = position_ - record_start_;
    record_->chose(table, first, count, scratch_);
    const auto after = std::find_if(config_.layers.begin() + std::ptrdiff_t(layer) + 1, config_.layers.end(),
                                    [](const LayerConfig& l) { return l.sparse; });
    if (after == config_.layers.end() || record_->guesses() == 0) return;
    const PackedMatrix& router = trunk_.layers[size_t(after - config_.layers.begin())].router;
    const Activations input = scratch_.normed.activations(count, config_.hidden);
    machine_.multiply({{router, input, scratch_.router_logits, router.rows}});
    record_->guessed(table + 1, first, count, int(router.rows), scratch_.router_logits);
}

void Model::normalise(const float* weight, int64_t count) {
    const Activations normed = scratch_.normed.activations(count, config_.hidden);
    machine_.run(count, count * element_operations * config_.hidden, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            rms_norm(machine_.kernels, scratch_.residual + i * config_.hidden, weight, config_.hidden,
                     config_.norm_epsilon, scratch_.normed.values + i * config_.hidden);
        machine_.kernels.quantize(normed, first, last);
    });
}

void Model::add_to_residual(int64_t count) {
    machine_.run(count, count * config_.hidden, [&](int64_t first, int64_t last) {
        add(scratch_.residual + first * config_.hidden, scratch_.block_out + first * config_.hidden,
            (last - first) * config_.hidden);
    });
}

void Model::last_logits(int64_t count, float* logits) {
    const float* const last = scratch_.residual + (count - 1) * config_.hidden;
    std::memmove(scratch_.residual, last, size_t(config_.hidden) * sizeof(float));
    all_logits(1, logits);
}

void Model::all_logits(int64_t count, float* logits) {
    normalise(trunk_.final_norm, count);
    machine_.multiply(
        {{trunk_.head, scratch_.normed.activations(count, config_.hidden), logits, config_.vocabulary}});
}

}  // namespace moecompress
