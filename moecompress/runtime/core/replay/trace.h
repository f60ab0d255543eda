// A model's routing of some text as it was recorded.
#pragma once

#include <cstdint>
#include <vector>

namespace moecompress {

// Layers count layers with routed experts.
struct RoutingTrace {
    int64_t tokens = 0;
    int top_k = 0;
    std::vector<int> experts;          // of each layer
    const uint16_t* chosen = nullptr;  // [token][layer][rank], by descending weight
    const float* weight = nullptr;     // the same

    int layers() const { return int(experts.size()); }
    int64_t place(int64_t token, int layer) const { return (token * layers() + layer) * top_k; }
    const uint16_t* at(int64_t token, int layer) const { return chosen + place(token, layer); }
    // Throws std::invalid_argument for an expert that is not there or is chosen twice.
    void check() const;
};

}  // namespace moecompress
