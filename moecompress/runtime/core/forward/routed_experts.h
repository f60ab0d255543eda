// Routed experts alone: the engine's store and sparse block for a caller that routes tokens itself.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "forward/config.h"
#include "forward/feed_forward.h"
#include "forward/products.h"
#include "forward/scratch.h"
#include "forward/sparse_block.h"
#include "store/expert_store.h"

namespace moecompress {

struct RoutedOptions {
    int64_t top_k = 0;    // most experts of a token
    int64_t chunk = 256;  // tokens worked on at once
    int threads = 1;
    std::string isa;  // name of a kernel path; empty: the best
    StoreOptions store;
};

// What the caller decided for `tokens` tokens. An index at or beyond the layer's number of experts means none; the
// weights of an expert named twice for a token are added.
struct Routing {
    int64_t tokens = 0;
    int64_t ranks = 0;               // experts named per token, at most top_k
    const int64_t* index = nullptr;  // [tokens][ranks]
    const float* weight = nullptr;   // [tokens][ranks]
};

class RoutedExperts {
public:
    // Opens the expert files and reserves everything. Throws std::invalid_argument, ReadError or std::bad_alloc.
    RoutedExperts(const std::string& folder, const std::vector<ExpertLayer>& layers, const RoutedOptions& options);

    // output[token] = sum of weight * expert(hidden[token]), over experts by ascending index; [tokens][hidden_size].
    // `table` counts layers. Calls from several threads take turns. Throws std::invalid_argument or ReadError; usable
    // afterwards.
    void run(int table, const Routing& routing, const float* hidden, float* output);

    int64_t hidden_size() const { return config_.hidden; }
    bool direct() const { return store_->direct(); }
    StoreStatistics statistics();  // also waits its turn

private:
    void check(int table, const Routing& routing) const;
    void run_chunk(int table, const Routing& routing, bool last, const float* hidden, float* output);
    void choose(int64_t experts, const Routing& routing, int64_t token);

    ModelConfig config_;
    ScratchSizes sizes_;
    Region scratch_memory_;
    Scratch scratch_;
    ThreadPool pool_;
    Machine machine_;
    std::unique_ptr<ExpertStore> store_;
    SparseBlock sparse_;
    std::mutex turn_;
};

}  // namespace moecompress
