// Least frequently used: uses since the store was opened, whether cached or not; the older use among equals.
#include <utility>

#include "cache/scored.h"

namespace moecompress {

namespace {

class LeastFrequentlyUsed final : public ScoredPolicy {
public:
    explicit LeastFrequentlyUsed(const CacheView& view) : ScoredPolicy(view), uses_(size_t(view.experts())) {}

    int victim(const std::vector<uint8_t>& allowed) const override {
        return lowest(allowed, [&](int expert) { return uses_[size_t(expert)]; });
    }

private:
    void count(int expert) override {
        ++uses_[size_t(expert)].first;
        uses_[size_t(expert)].second = ++time_;
    }

    std::vector<std::pair<int64_t, int64_t>> uses_;  // of each expert: how many, and the time of the last
    int64_t time_ = 0;
};

const RegisteredPolicy lfu("lfu", [](const CacheView& view) { return std::make_unique<LeastFrequentlyUsed>(view); });

}  // namespace

}  // namespace moecompress
