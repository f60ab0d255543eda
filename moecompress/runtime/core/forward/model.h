// The engine's core: weights, key-value cache, expert store and threads of one model, and its forward pass.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "forward/config.h"
#include "forward/feed_forward.h"
#include "forward/kv_cache.h"
#include "forward/lookahead.h"
#include "forward/products.h"
#include "forward/routing_record.h"
#include "forward/sampling.h"
#include "forward/scratch.h"
#include "forward/sparse_block.h"
#include "forward/trunk.h"
#include "store/expert_store.h"

namespace moecompress {

struct ModelFiles {
    std::string folder;
    std::vector<TrunkEntry> trunk;
    std::vector<ExpertLayer> experts;  // one per sparse layer, ascending
};

struct ModelOptions {
    int threads = 1;
    int64_t context = 0;  // positions the key-value cache has room for
    int64_t chunk = 128;  // tokens of a prompt worked on at once
    KeyValueType key_values = KeyValueType::int16;
    std::string isa;      // name of a kernel path; empty: the best
    StoreOptions store;
    std::string predictor = "router";  // of experts to read ahead
    Priors priors;                     // for predictors that need them
};

// Bytes each part will take; nothing is allocated.
struct MemoryNeeds {
    uint64_t trunk = 0;
    uint64_t key_value = 0;
    uint64_t scratch = 0;
    uint64_t sampling = 0;     // logits of one token and what choosing from them takes
    uint64_t slot = 0;         // the largest expert record
    uint64_t all_experts = 0;  // every record
    int experts = 0;
};

class Model {
public:
    // Reads the trunk and reserves everything. Throws std::invalid_argument, ReadError or std::bad_alloc.
    Model(const ModelConfig& config, const ModelFiles& files, const ModelOptions& options);

    static MemoryNeeds needs(const ModelConfig& config, const ModelFiles& files, int64_t context, int64_t chunk,
                             KeyValueType key_values);

    // Appends `count` tokens at the current position. Fills logits [count][vocabulary], or [1][vocabulary] of the last
    // token unless `all`. `interrupted` is asked between layers. When it returns true, after cancel(), and on
    // ReadError, the position stays behind the last finished chunk and the model can be used again.
    void forward(const int32_t* tokens, int64_t count, bool all, float* logits,
                 const std::function<bool()>& interrupted);
    // The token chosen after `count` more tokens; as forward otherwise.
    int32_t next(const int32_t* tokens, int64_t count, const SamplingOptions& options, double uniform,
                 const std::function<bool()>& interrupted);
    // Ends a forward that is running, or the next one; callable from any thread.
    void cancel() { cancelled_.store(true); }
    // Forgets positions from `length` on, and a pending cancel().
    void reset(int64_t length);

    // From now on keeps the routing of the latest forward pass, with as many guesses of each router one layer early.
    void record_routing(int64_t guesses) { record_.emplace(int(store_->layers().size()), config_.top_k, guesses); }
    const std::optional<RoutingRecord>& record() const { return record_; }

    int64_t position() const { return position_; }
    int64_t context() const { return cache_.context(); }
    const ModelConfig& config() const { return config_; }
    ExpertStore& store() { return *store_; }
    const Kernels& kernels() const { return machine_.kernels; }

private:
    void check_tokens(const int32_t* tokens, int64_t count) const;
    void run_chunk(const int32_t* tokens, int64_t count, bool last, const std::function<bool()>& interrupted);
    void run_layer(size_t layer, int64_t count, bool last);
    void look_ahead(const ModelOptions& options);
    void record_layer(size_t layer, int table, int64_t count);
    void normalise(const float* weight, int64_t count);
    void add_to_residual(int64_t count);
    void last_logits(int64_t count, float* logits);
    void all_logits(int64_t count, float* logits);

    ModelConfig config_;
    int64_t chunk_;
    Trunk trunk_;
    KeyValueCache cache_;
    ScratchSizes sizes_;
    Region scratch_memory_;
    Scratch scratch_;
    ThreadPool pool_;
    Machine machine_;
    std::unique_ptr<ExpertStore> store_;
    SparseBlock sparse_;
    std::optional<Lookahead> lookahead_;
    std::optional<RoutingRecord> record_;
    int64_t record_start_ = 0;  // position of the record's first token
    Sampler sampler_;
    int64_t position_ = 0;
    std::atomic<bool> cancelled_{false};
};

}  // namespace moecompress
