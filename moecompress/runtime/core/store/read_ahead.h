// Experts read before they are wanted: guesses, what became of them, and what they cost.
//
// A guess takes a free slot, or one whose expert is less likely to be wanted than the guess, and keeps it until the
// layer's routing is known. A right guess then is an expert like any other. A wrong one that is whole stays in memory at
// low rank; one that is still being read is cancelled and keeps nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/residency.h"
#include "store/expert_slots.h"
#include "store/governor.h"
#include "store/statistics.h"

namespace moecompress {

class ReadAhead {
public:
    ReadAhead(ExpertSlots& slots, Residency& residency, StoreStatistics& statistics, Speculation mode);

    Governor& governor() { return governor_; }
    // Experts a layer to come is likely to want, likeliest first: the first ones not in memory are read while the disk
    // is idle.
    void guess(int table, const std::vector<int>& likely, Window window);
    // The routing of a layer is known: `wanted`, ascending. Before anything of the layer is requested.
    void judge(int table, const std::vector<int>& wanted);
    // Whether the expert found in a slot was read ahead and is used for the first time.
    bool first_use(int slot);
    // The slot now is for an expert, by its number over all layers, that has to be read on demand.
    void taken(int slot, int index, uint64_t bytes);
    // Cancels every guess to make room; false when there is none.
    bool give_way();

private:
    enum class State : uint8_t {
        ordinary,
        unproven,  // read ahead and not used yet
        lost,      // keeps nothing; free as soon as its read is settled
    };
    struct Guess {
        int slot, table, expert, rank;
        Window window;
    };
    struct Lost {
        int slot, table;
    };

    bool start(Guess guess);
    void keep_or_cancel(const Guess& guess);
    void free_lost(int table);
    void vacate(int slot);

    ExpertSlots& slots_;
    Residency& residency_;
    StoreStatistics& statistics_;
    Governor governor_;
    std::vector<State> state_;        // of each slot
    std::vector<uint64_t> bytes_;     // of each slot: the record read ahead
    std::vector<uint8_t> displaced_;  // of each expert over all layers: it had to make room for a guess
    std::vector<Guess> guesses_;      // of layers that are still to come
    std::vector<Lost> lost_;
};

}  // namespace moecompress
