#include "replay/trace.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace moecompress {

void RoutingTrace::check() const {
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
