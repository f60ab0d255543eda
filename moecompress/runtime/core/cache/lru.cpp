// Least recently used, with a cold end for experts that are not expected back: a doubly linked list over slots.
#include "cache/policy.h"

namespace moecompress {

namespace {

class LeastRecentlyUsed final : public CachePolicy {
public:
    // Node `slots` is the list's head: its next is the coldest slot, its previous the most recently used one.
    explicit LeastRecentlyUsed(int slots) : head_(slots), next_(slots + 1, -1), previous_(slots + 1, -1) {
        next_[head_] = previous_[head_] = head_;
    }

    void inserted(int slot, int, bool lasting) override { link(slot, lasting ? head_ : next_[head_]); }

    void used(int slot, int) override {
        removed(slot);
        link(slot, head_);
    }

    void removed(int slot) override {
        next_[previous_[slot]] = next_[slot];
        previous_[next_[slot]] = previous_[slot];
        next_[slot] = previous_[slot] = -1;
    }

    int victim(const std::vector<uint8_t>& allowed) const override {
        for (int slot = next_[head_]; slot != head_; slot = next_[slot])
            if (allowed[slot]) return slot;
        return -1;
    }

private:
    void link(int slot, int before) {
        next_[slot] = before;
        previous_[slot] = previous_[before];
        next_[previous_[slot]] = slot;
        previous_[before] = slot;
    }

    int head_;
    std::vector<int> next_, previous_;
};

const RegisteredPolicy lru("lru", [](const CacheView& view) { return std::make_unique<LeastRecentlyUsed>(view.slots); });

}  // namespace

}  // namespace moecompress
