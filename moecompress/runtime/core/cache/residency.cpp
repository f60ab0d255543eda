#include "cache/residency.h"

namespace moecompress {

Residency::Residency(const std::vector<int>& experts, int slots, const PolicyFactory& policy) {
    view_.layers = int(experts.size());
    view_.layer = view_.layers - 1;
    for (int layer = 0; layer < view_.layers; ++layer) {
        first_index_.push_back(view_.experts());
        view_.layer_of.insert(view_.layer_of.end(), size_t(experts[size_t(layer)]), layer);
    }
    view_.slots = slots == 0 ? view_.experts() : slots;
    slot_of_.assign(size_t(view_.experts()), -1);
    held_.assign(size_t(view_.slots), -1);
    unpinned_.assign(size_t(view_.slots), 1);
    unwanted_.assign(size_t(view_.slots), 1);
    if (slots == 0) return;
    for (int slot = slots - 1; slot >= 0; --slot) empty_.push_back(slot);
    policy_ = policy(view_);
}

void Residency::begin(int layer, const std::vector<int>& wanted) {
    if (layer <= view_.layer) ++view_.pass;
    view_.layer = layer;
    for (const int expert : wanted) {
        const int slot = slot_of(expert);
        if (slot < 0) continue;
        unwanted_[size_t(slot)] = 0;
        touched_.push_back(slot);
    }
}

Residency::Place Residency::request(int expert, bool lasting) {
    Place place{slot_of(expert), true, -1};
    if (place.slot < 0) {
        place.hit = false;
        place.slot = policy_ == nullptr ? index_of(expert) : free_slot(place.given_up);
        if (place.slot < 0) return place;
        hold(place.slot, index_of(expert), lasting);
    } else if (policy_ != nullptr && lasting) {
        policy_->used(place.slot, index_of(expert));
    }
    touched_.push_back(place.slot);
    pin(place.slot);
    return place;
}

void Residency::hold(int slot, int index, bool lasting) {
    held_[size_t(slot)] = index;
    slot_of_[size_t(index)] = slot;
    if (policy_ != nullptr) policy_->inserted(slot, index, lasting);
}

Residency::Place Residency::claim(int layer, int expert, float chance) {
    Place place{-1, false, -1};
    if (empty_.empty()) {
        const int slot = policy_->victim(unwanted_);
        if (slot < 0 || policy_->chance(slot) >= chance) return place;
        place.given_up = held_[size_t(slot)];
        forget(slot);
    }
    place.slot = empty_.back();
    empty_.pop_back();
    hold(place.slot, index_of(layer, expert), false);
    pin(place.slot);
    return place;
}

int Residency::free_slot(int& given_up) {
    if (empty_.empty()) {
        int slot = policy_->victim(unwanted_);
        if (slot < 0) slot = policy_->victim(unpinned_);
        if (slot < 0) return -1;
        given_up = held_[size_t(slot)];
        forget(slot);
    }
    const int slot = empty_.back();
    empty_.pop_back();
    return slot;
}

void Residency::release(int expert) { unpin(slot_of(expert)); }

void Residency::forget(int slot) {
    slot_of_[size_t(held_[size_t(slot)])] = -1;
    held_[size_t(slot)] = -1;
    unpin(slot);
    if (policy_ == nullptr) return;
    policy_->removed(slot);
    empty_.push_back(slot);
}

void Residency::end() {
    for (const int slot : touched_) unpin(slot);
    touched_.clear();
}

}  // namespace moecompress
