#include "replay/hits.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "cache/residency.h"

namespace moecompress {

namespace {

// One token's work on a layer: what is there first, then what is missing, each by rank, as the forward pass asks.
void visit(Residency& residency, int layer, const std::vector<int>& chosen, Replayed& result) {
    residency.begin(layer, chosen);
    std::vector<size_t> missing;
    for (size_t rank = 0; rank < chosen.size(); ++rank) {
        const bool there = residency.slot_of(chosen[rank]) >= 0;
        result.missed.push_back(!there);
        if (there)
            residency.request(chosen[rank], true);
        else
            missing.push_back(rank);
    }
    for (const size_t rank : missing) result.given_up.push_back(residency.request(chosen[rank], true).given_up);
    residency.end();
}

}  // namespace

Replayed replay(const RoutingTrace& trace, const std::string& policy, int slots) {
    trace.check();
    if (slots < trace.top_k)
        throw std::invalid_argument("The cache needs at least " + std::to_string(trace.top_k) + " slots, not " +
                                    std::to_string(slots) + ".");
    const auto experts = std::accumulate(trace.experts.begin(), trace.experts.end(), int64_t{0});
    Residency residency(trace.experts, int(std::min<int64_t>(slots, experts)),
                        policy == "belady" ? belady(trace) : named_policy(policy));
    Replayed result;
    for (int64_t token = 0; token < trace.tokens; ++token)
        for (int layer = 0; layer < trace.layers(); ++layer) {
            const uint16_t* const choice = trace.at(token, layer);
            visit(residency, layer, std::vector<int>(choice, choice + trace.top_k), result);
        }
    return result;
}

}  // namespace moecompress
