// Expected next use: the probability that the expert's layer will want it, over how far off that layer is.
//
//     score = p / (d + 1/4),    p = (share of the last ~3 passes + share of the last ~64 passes) / 2
//
// Both shares are exponential averages of uses with half-lives of 3 and 64 passes, p is kept within [1e-4, 0.999], and
// d in (0, 1] is the part of a pass until the layer runs next. Lowest score goes first.
#include <algorithm>
#include <cmath>

#include "cache/scored.h"

namespace moecompress {

namespace {

constexpr double recent_half_life = 3.0, steady_half_life = 64.0;  // passes
constexpr float least = 1e-4f, most = 0.999f;
constexpr float nearness = 0.25f;
constexpr int64_t horizon = 1024;  // passes; what is older weighs less than `least`

std::vector<float> decays(double half_life) {
    std::vector<float> values(size_t(horizon) + 1);
    for (size_t age = 0; age < values.size(); ++age) values[age] = float(std::exp2(-double(age) / half_life));
    return values;
}

// Half of what one use adds to an exponential average.
float weight(double half_life) { return float(0.5 * (1.0 - std::exp2(-1.0 / half_life))); }

class ExpectedNextUse final : public ScoredPolicy {
public:
    explicit ExpectedNextUse(const CacheView& view) : ScoredPolicy(view), history_(size_t(view.experts())) {}

    int victim(const std::vector<uint8_t>& allowed) const override {
        const float layers = float(view_.layers);
        return lowest(allowed, [&](int expert) {
            return probability(expert) / (float(view_.distance(expert)) / layers + nearness);
        });
    }
    float chance(int slot) const override { return probability(held(slot)); }

private:
    struct History {
        float recent = 0.0f, steady = 0.0f;  // halves of p as of the pass `last`
        int64_t last = 0;
    };

    float probability(int expert) const {
        const History& history = history_[size_t(expert)];
        return std::clamp(recent(history) + steady(history), least, most);
    }
    size_t age(const History& history) const { return size_t(std::min(view_.pass - history.last, horizon)); }
    float recent(const History& history) const { return history.recent * recent_decay_[age(history)]; }
    float steady(const History& history) const { return history.steady * steady_decay_[age(history)]; }

    void count(int expert) override {
        History& history = history_[size_t(expert)];
        history = {recent(history) + recent_weight_, steady(history) + steady_weight_, view_.pass};
    }

    const std::vector<float> recent_decay_ = decays(recent_half_life), steady_decay_ = decays(steady_half_life);
    const float recent_weight_ = weight(recent_half_life), steady_weight_ = weight(steady_half_life);
    std::vector<History> history_;
};

const RegisteredPolicy expected("expected",
                                [](const CacheView& view) { return std::make_unique<ExpectedNextUse>(view); });

}  // namespace

}  // namespace moecompress
