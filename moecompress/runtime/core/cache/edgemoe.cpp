// EdgeMoE's score (arXiv 2308.14352): frequency over distance, f / d, where d counts layers until the expert's own runs
// next. The paper prints (S - i + I) mod S in the place of d, which is the number of layers since it ran: that gives up
// what is needed next and divides by zero at the layer at work. d is what its text describes.
#include <utility>

#include "cache/scored.h"

namespace moecompress {

namespace {

class EdgeMoe final : public ScoredPolicy {
public:
    explicit EdgeMoe(const CacheView& view) : ScoredPolicy(view), uses_(size_t(view.experts())) {}

    int victim(const std::vector<uint8_t>& allowed) const override {
        return lowest(allowed, [&](int expert) {
            const auto& [count, last] = uses_[size_t(expert)];
            return std::pair(double(count) / view_.distance(expert), last);
        });
    }

private:
    void count(int expert) override {
        ++uses_[size_t(expert)].first;
        uses_[size_t(expert)].second = ++time_;
    }

    std::vector<std::pair<int64_t, int64_t>> uses_;  // of each expert: how many, and the time of the last
    int64_t time_ = 0;
};

const RegisteredPolicy edgemoe("edgemoe", [](const CacheView& view) { return std::make_unique<EdgeMoe>(view); });

}  // namespace

}  // namespace moecompress
