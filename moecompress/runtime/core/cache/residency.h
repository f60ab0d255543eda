// Which expert lies in which slot: the expert store's bookkeeping, without bytes and without threads. Replay drives the
// same code over a recorded routing, so that its hit rates are those of a live run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/policy.h"

namespace moecompress {

// Layers count layers with routed experts. Between begin() and end() experts of one layer are requested; an expert that
// was requested keeps its slot until it is released.
class Residency {
public:
    // experts: of each layer. No slots: every expert has one of its own, and nothing is ever given up.
    Residency(const std::vector<int>& experts, int slots, const PolicyFactory& policy);
    Residency(const Residency&) = delete;
    Residency& operator=(const Residency&) = delete;

    // Work on a layer begins. Experts in `wanted` are the last to be given up until end().
    void begin(int layer, const std::vector<int>& wanted);
    // Of an expert of the layer at work; -1 when it is in none.
    int slot_of(int expert) const { return slot_of_[size_t(index_of(expert))]; }

    struct Place {
        int slot;      // -1: every slot is pinned
        bool hit;      // the expert was there already
        int given_up;  // expert over all layers that had to go; -1: none
    };
    // Pins an expert of the layer at work in its slot, or in one that it gets now. `lasting` experts are expected back
    // soon.
    Place request(int expert, bool lasting);
    void release(int expert);
    // A slot for an expert of any layer that its layer is likely to want: a free one, or that of an expert which is less
    // likely than `chance` to be wanted. At low rank until it is requested; nobody else gets it before end_claim().
    Place claim(int layer, int expert, float chance);
    void end_claim(int slot) { unpin(slot); }
    // Slots wanted or requested since begin(); those still pinned hold an expert.
    const std::vector<int>& touched() const { return touched_; }
    bool pinned(int slot) const { return unpinned_[size_t(slot)] == 0; }
    // Empties a slot: what it should have held could not be read.
    void forget(int slot);
    // Unpins everything.
    void end();

    int slots() const { return view_.slots; }
    int layer() const { return view_.layer; }
    int index_of(int expert) const { return index_of(view_.layer, expert); }
    int index_of(int layer, int expert) const { return first_index_[size_t(layer)] + expert; }
    int slot_of(int layer, int expert) const { return slot_of_[size_t(index_of(layer, expert))]; }

private:
    int free_slot(int& given_up);
    void hold(int slot, int index, bool lasting);
    void pin(int slot) { unpinned_[size_t(slot)] = unwanted_[size_t(slot)] = 0; }
    void unpin(int slot) { unpinned_[size_t(slot)] = unwanted_[size_t(slot)] = 1; }

    CacheView view_;
    std::vector<int> first_index_;  // of each layer
    std::vector<int> slot_of_;      // of each expert over all layers; -1: not in memory
    std::vector<int> held_;         // expert over all layers in each slot; -1: empty
    std::vector<int> empty_;        // slots never used or freed by a failed read
    std::vector<int> touched_;
    std::vector<uint8_t> unpinned_, unwanted_;  // per slot, for the policy
    std::unique_ptr<CachePolicy> policy_;       // none when every expert has a slot of its own
};

}  // namespace moecompress
