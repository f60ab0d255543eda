// What the expert store counts. Every expert looked up is a hit, a speculative hit or a miss.
#pragma once

#include <cstdint>

namespace moecompress {

enum class Phase { prefill = 0, decode = 1 };

struct Lookups {
    uint64_t hits = 0;              // in memory because they were used before
    uint64_t speculative_hits = 0;  // used for the first time after they were read, or begun to be read, ahead
    uint64_t misses = 0;            // had to be read
    double seconds_waited = 0.0;    // computing stood still for a read
};

// Reads ahead become speculative hits or wasted; those of experts still waiting in memory are neither.
struct StoreStatistics {
    Lookups phase[2];                // by Phase
    uint64_t reads = 0;              // records begun on demand
    uint64_t speculative_reads = 0;  // records begun ahead
    uint64_t wasted_reads = 0;       // of them, cancelled, failed, or given up unused
    uint64_t failed_speculative_reads = 0;
    uint64_t bytes_read = 0;         // all that came from the files
    uint64_t wasted_bytes = 0;       // of wasted reads

    Lookups& of(Phase which) { return phase[static_cast<int>(which)]; }
    const Lookups& of(Phase which) const { return phase[static_cast<int>(which)]; }
};

}  // namespace moecompress
