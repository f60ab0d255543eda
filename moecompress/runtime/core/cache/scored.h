// What policies have in common that give up the expert of the lowest score.
#pragma once

#include <cstddef>
#include <vector>

#include "cache/policy.h"

namespace moecompress {

class ScoredPolicy : public CachePolicy {
public:
    explicit ScoredPolicy(const CacheView& view) : view_(view), held_(size_t(view.slots), -1) {}

    void inserted(int slot, int expert, bool lasting) final {
        held_[size_t(slot)] = expert;
        if (lasting) count(expert);
    }
    void used(int, int expert) final { count(expert); }
    void removed(int slot) final { held_[size_t(slot)] = -1; }

protected:
    int held(int slot) const { return held_[size_t(slot)]; }
    // The expert was used once more; also called while it moves in.
    virtual void count(int expert) = 0;

    // score(expert) is compared by <; the lower slot among equals.
    template <typename Score>
    int lowest(const std::vector<uint8_t>& allowed, Score score) const {
        int best = -1;
        decltype(score(0)) best_score{};
        for (size_t slot = 0; slot < held_.size(); ++slot) {
            if (allowed[slot] == 0 || held_[slot] < 0) continue;
            const auto own = score(held_[slot]);
            if (best >= 0 && !(own < best_score)) continue;
            best = int(slot);
            best_score = own;
        }
        return best;
    }

    const CacheView& view_;

private:
    std::vector<int> held_;  // expert in each slot; -1: none
};

}  // namespace moecompress
