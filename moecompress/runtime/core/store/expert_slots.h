// The bytes of experts in memory: slots of one arena, and the reads that fill them.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "store/file.h"
#include "store/lanes.h"
#include "store/record.h"
#include "store/region.h"

namespace moecompress {

class ExpertSlots {
public:
    // Opens every file, checks every record against it and reserves memory: `slots` places for the largest record, or
    // with no slots one for every expert, in the order of the tables. Throws std::invalid_argument or std::bad_alloc.
    ExpertSlots(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, int slots, int lanes,
                InputOutput io);

    static uint64_t largest_record(const std::vector<ExpertLayer>& layers);
    static uint64_t total_bytes(const std::vector<ExpertLayer>& layers);
    static int total_experts(const std::vector<ExpertLayer>& layers);

    // Starts to fill a slot whose last read is settled. `table` counts the layers with experts.
    void fill(int slot, int table, int expert, Urgency urgency);
    Read& read(int slot) { return reads_[size_t(slot)]; }
    const Read& read(int slot) const { return reads_[size_t(slot)]; }
    // Whether the slot's last read began as a speculative one.
    bool begun_ahead(int slot) const { return ahead_[size_t(slot)] != 0; }
    // The matrices of the expert that fills the slot; those that are not ready() yet must not be looked into.
    FeedForward weights(int slot, int table, int expert) const;

    int count() const { return int(reads_.size()); }
    const std::vector<ExpertLayer>& layers() const { return layers_; }
    uint64_t bytes(int table, int expert) const { return entry(table, expert).bytes; }
    bool direct() const;  // every file is read past the page cache
    ReaderLanes& lanes() { return lanes_; }

private:
    const ExpertEntry& entry(int table, int expert) const { return layers_[size_t(table)].experts[size_t(expert)]; }
    void place(int slots);

    std::vector<ExpertLayer> layers_;
    std::vector<File> files_;       // of each table
    std::vector<uint64_t> offset_;  // of each slot in the arena
    std::deque<Read> reads_;        // the last of each slot
    std::vector<uint8_t> ahead_;    // of each slot: that read began as a speculative one
    Region arena_;
    ReaderLanes lanes_;  // last: its threads stop before the slots go
};

}  // namespace moecompress
