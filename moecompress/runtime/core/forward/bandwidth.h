// How fast this machine reads memory: what no product with weights in memory can exceed.
#pragma once

#include <cstdint>
#include <vector>

namespace moecompress {

// Bytes per second of each of `passes` readings of `bytes` of memory, every line once, in order; each thread adds up
// its own contiguous part. Throws std::invalid_argument unless 1 MiB <= bytes and 1 <= passes <= 1000, and for
// impossible threads.
std::vector<double> read_speeds(int64_t bytes, int threads, int passes);

}  // namespace moecompress
