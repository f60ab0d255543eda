// Experts in memory: fixed slots in one arena, filled from disk on demand, given up by a cache policy.
//
// All methods are called by the one compute thread; reader threads only fill slots. An expert that was requested stays
// in its slot until it is released, so a record is never overwritten while it is read or multiplied.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cache/residency.h"
#include "store/file.h"
#include "store/lanes.h"
#include "store/record.h"
#include "store/region.h"

namespace moecompress {

struct StoreOptions {
    int slots = 0;  // 0: a place for every expert
    int lanes = 2;  // reader threads
    InputOutput io = InputOutput::automatic;
    std::string policy = "lru";
};

enum class Phase { prefill = 0, decode = 1 };

struct StoreStatistics {
    uint64_t hits[2] = {0, 0};    // by Phase: experts found in memory
    uint64_t misses[2] = {0, 0};  // by Phase: experts that had to be read
    uint64_t reads = 0;
    uint64_t bytes_read = 0;
    double seconds_waited = 0.0;  // compute stood still for a read
};

class ExpertStore {
public:
    // Opens every file, checks every record against it and reserves the slots.
    ExpertStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, const StoreOptions& options);
    ~ExpertStore();

    // `table` counts MoE layers from 0. Experts in `wanted` are the last to be given up until end().
    void begin(int table, Phase phase, const std::vector<int>& wanted);
    bool resident(int expert) const;
    // Pins an expert, starting its read if it is not in memory; false when every slot is pinned. `lasting` experts are
    // expected back soon.
    bool request(int expert, bool lasting);
    bool ready(int expert) const;
    // Waits for a requested expert. Throws ReadError when its record could not be read.
    FeedForward get(int expert);
    void release(int expert);
    // Waits for reads under way and unpins everything.
    void end();

    const StoreStatistics& statistics() const { return statistics_; }
    void clear_statistics() { statistics_ = {}; }
    bool direct() const;  // every file is read past the page cache
    const std::vector<ExpertLayer>& layers() const { return layers_; }

    static uint64_t largest_record(const std::vector<ExpertLayer>& layers);
    static uint64_t total_bytes(const std::vector<ExpertLayer>& layers);
    static int total_experts(const std::vector<ExpertLayer>& layers);
    static uint64_t arena_bytes(const std::vector<ExpertLayer>& layers, int slots);

private:
    const ExpertEntry& entry(int expert) const { return layers_[residency_.layer()].experts[expert]; }
    void fill(int slot, int expert);

    std::vector<ExpertLayer> layers_;
    std::vector<File> files_;  // one per layer table
    Residency residency_;
    std::vector<uint64_t> slot_offset_;  // in the arena
    std::deque<Read> reads_;             // the latest of each slot
    Region arena_;
    Phase phase_ = Phase::prefill;
    StoreStatistics statistics_;
    ReaderLanes lanes_;  // last: its threads stop before the slots go
};

// Ends the work on a layer however it is left.
class LayerWork {
public:
    LayerWork(ExpertStore& store, int table, Phase phase, const std::vector<int>& wanted) : store_(store) {
        store_.begin(table, phase, wanted);
    }
    ~LayerWork() { store_.end(); }
    LayerWork(const LayerWork&) = delete;
    LayerWork& operator=(const LayerWork&) = delete;

private:
    ExpertStore& store_;
};

}  // namespace moecompress
