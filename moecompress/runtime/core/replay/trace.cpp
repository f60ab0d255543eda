#include "replay/trace.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace moecompress {

namespace {

constexpr int most_experts = 65536;  // that 16 bits can name

}  // namespace

void RoutingTrace::check() const {
    for (const int count : experts)
        if (count < 1 || count > most_experts)
            throw std::invalid_argument("A layer of a trace has 1 to " + std::to_string(most_experts) +
                                        " experts, not " + std::to_string(count) + ".");
    for (int64_t token = 0; token < tokens; ++token)
        for (int layer = 0; layer < layers(); ++layer) {
            const uint16_t* const choice = at(token, layer);
            for (int rank = 0; rank < top_k; ++rank) {
                const bool twice = std::find(choice, choice + rank, choice[rank]) != choice + rank;
                if (!twice && choice[rank] < experts[size_t(layer)]) continue;
                throw std::invalid_argument("Token " + std::to_string(token) + " chose expert " +
                                            std::to_string(choice[rank]) + " in layer " + std::to_string(layer) +
                                            (twice ? " twice." : ", which has " +
                                                                     std::to_string(experts[size_t(layer)]) +
                                                                     " experts."));
            }
        }
}

}  // namespace moecompress
