// Belady's optimal replacement: the expert whose next use is furthest off goes. An upper bound for every policy.
#include "cache/scored.h"
#include "replay/hits.h"

namespace moecompress {

namespace {

class Belady final : public ScoredPolicy {
public:
    Belady(const CacheView& view, const RoutingTrace& trace) : ScoredPolicy(view), uses_(size_t(view.experts())) {
        for (int64_t token = 0; token < trace.tokens; ++token) {
            int first = 0;  // expert of the layer, over all layers
            for (int layer = 0; layer < trace.layers(); first += trace.experts[size_t(layer++)])
                for (int rank = 0; rank < trace.top_k; ++rank)
                    uses_[size_t(first + trace.at(token, layer)[rank])].moments.push_back(token * view.layers + layer);
        }
    }

    int victim(const std::vector<uint8_t>& allowed) const override {
        return lowest(allowed, [&](int expert) { return -uses_[size_t(expert)].upcoming(); });
    }

private:
    struct Uses {
        std::vector<int64_t> moments;  // ascending
        size_t past = 0;

        int64_t upcoming() const { return past < moments.size() ? moments[past] : INT64_MAX; }
    };

    void count(int expert) override { ++uses_[size_t(expert)].past; }

    std::vector<Uses> uses_;
};

}  // namespace

PolicyFactory belady(const RoutingTrace& trace) {
    return [&trace](const CacheView& view) { return std::make_unique<Belady>(view, trace); };
}

}  // namespace moecompress
