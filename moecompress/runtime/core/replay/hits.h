// Runs a recorded routing through a cache policy and the store's bookkeeping, token by token as decoding does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/policy.h"
#include "replay/trace.h"

namespace moecompress {

struct Replayed {
    std::vector<uint8_t> missed;    // [token][layer][rank]: 1 where the expert had to be read
    std::vector<int32_t> given_up;  // for each miss in order: the expert over all layers that made room, -1 for none
};

// `policy` is a registered one or "belady", the best there is for one who knows the future. Throws
// std::invalid_argument for fewer slots than top_k and for a trace that no model can have left.
Replayed replay(const RoutingTrace& trace, const std::string& policy, int slots);

// Belady's rule for a cache that is used as the trace says; the trace outlives the policy.
PolicyFactory belady(const RoutingTrace& trace);

}  // namespace moecompress
