// Experts for the forward pass: in memory, or read from disk when they are asked for.
//
// All methods are called by the one compute thread; reader threads only fill slots. An expert that was requested stays
// where it is until it is released, so a record is never overwritten while it is read or multiplied.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/expert_slots.h"
#include "store/governor.h"
#include "store/read_ahead.h"
#include "store/statistics.h"

namespace moecompress {

struct StoreOptions {
    int slots = 0;  // 0: a place for every expert
    int lanes = 2;  // reader threads
    InputOutput io = InputOutput::automatic;
    std::string policy = "lru";
    Speculation speculation = Speculation::off;
    bool overlap = true;  // computing goes on while experts are read
};

class ExpertStore {
public:
    virtual ~ExpertStore() = default;
    ExpertStore(const ExpertStore&) = delete;
    ExpertStore& operator=(const ExpertStore&) = delete;

    // Opens every file, checks every record against it and reserves the slots. Throws std::invalid_argument or
    // std::bad_alloc.
    static std::unique_ptr<ExpertStore> open(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                                             StoreOptions options);

    // Work on a layer begins; `table` counts the layers with experts. Experts in `wanted`, ascending, are the last to be
    // given up until end().
    virtual void begin(int table, Phase phase, const std::vector<int>& wanted) = 0;
    // Whether an expert is in memory, or on its way there.
    virtual bool present(int expert) const = 0;
    // Pins an expert, starting its read if it is not there; false when every slot is pinned. `lasting` experts are
    // expected back soon.
    virtual bool request(int expert, bool lasting) = 0;
    virtual void release(int expert) = 0;
    // Waits for reads under way and unpins everything.
    virtual void end() = 0;
    // Reading ahead, where there is room and reason for it; otherwise null.
    virtual ReadAhead* read_ahead() { return nullptr; }
    // A token is decoded.
    virtual void token_done() {}

    // Of a requested expert: whether its leading matrices are there.
    bool ready(int expert, int matrices) const { return slots_.read(slot_of(expert)).ready(matrices); }
    // A requested expert, waiting for its leading matrices; the others must not be looked into. Throws ReadError when
    // its record could not be read.
    FeedForward get(int expert, int matrices = whole_record);

    StoreStatistics statistics();
    void clear_statistics();
    bool direct() const { return slots_.direct(); }  // every file is read past the page cache
    bool overlap() const { return overlap_; }
    int slots() const { return slots_.count(); }
    const std::vector<ExpertLayer>& layers() const { return slots_.layers(); }

protected:
    ExpertStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, const StoreOptions& options);
    virtual int slot_of(int expert) const = 0;  // of the table at work
    Lookups& lookups() { return statistics_.of(phase_); }
    // What could not be read ahead is read on demand, which may end in an error.
    void read_again(int slot, int expert);

    ExpertSlots slots_;
    StoreStatistics statistics_;
    int table_ = 0;
    Phase phase_ = Phase::prefill;
    double waited_ = 0.0;  // seconds, since the beginning

private:
    void wait(const Read& read, int matrices);

    bool overlap_;
    uint64_t bytes_before_ = 0;  // read before the statistics were cleared
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
