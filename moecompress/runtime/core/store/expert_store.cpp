#include "store/expert_store.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "store/checked.h"
#include "store/errors.h"

namespace moecompress {

uint64_t ExpertStore::largest_record(const std::vector<ExpertLayer>& layers) {
    uint64_t largest = 0;
    for (const ExpertLayer& layer : layers)
        for (const ExpertEntry& entry : layer.experts) largest = std::max(largest, entry.bytes);
    return largest;
}

uint64_t ExpertStore::total_bytes(const std::vector<ExpertLayer>& layers) {
    uint64_t total = 0;
    for (const ExpertLayer& layer : layers)
        for (const ExpertEntry& entry : layer.experts) total = checked_add(total, entry.bytes);
    return total;
}

int ExpertStore::total_experts(const std::vector<ExpertLayer>& layers) {
    uint64_t total = 0;
    for (const ExpertLayer& layer : layers) total += layer.experts.size();
    if (total >= uint64_t(1) << 31) throw std::invalid_argument("The artifact lists more than 2^31 experts.");
    return static_cast<int>(total);
}

uint64_t ExpertStore::arena_bytes(const std::vector<ExpertLayer>& layers, int slots) {
    return slots == 0 ? total_bytes(layers) : checked_multiply(uint64_t(slots), largest_record(layers));
}

ExpertStore::ExpertStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                         const StoreOptions& options)
    : layers_(std::move(layers)), lanes_(options.lanes) {
    for (const ExpertLayer& layer : layers_) {
        const uint64_t probe = layer.experts.empty() ? 0 : layer.experts.front().offset;
        files_.push_back(folder.open(layer.file, options.io, probe));
        check_layer(layer, hidden, files_.back().size());
        first_index_.push_back(static_cast<int>(table_of_.size()));
        table_of_.insert(table_of_.end(), layer.experts.size(), static_cast<int>(first_index_.size()) - 1);
    }
    const bool all = options.slots == 0;
    const int count = all ? total_experts(layers_) : options.slots;
    uint64_t offset = 0;
    for (int slot = 0; slot < count; ++slot) {
        slot_offset_.push_back(offset);
        const ExpertLayer* const layer = all ? &layers_[table_of_[slot]] : nullptr;
        offset += all ? layer->experts[slot - first_index_[table_of_[slot]]].bytes : largest_record(layers_);
        slots_.emplace_back();
        if (!all) empty_.push_back(count - 1 - slot);
    }
    slot_of_.assign(table_of_.size(), -1);
    unpinned_.assign(count, 1);
    unwanted_.assign(count, 1);
    if (!all) policy_ = make_policy(options.policy, count);
    arena_ = Region(arena_bytes(layers_, options.slots), true);
}

ExpertStore::~ExpertStore() { end(); }

bool ExpertStore::direct() const {
    return std::all_of(files_.begin(), files_.end(), [](const File& file) { return file.direct(); });
}

void ExpertStore::begin(int table, Phase phase, const std::vector<int>& wanted) {
    table_ = table;
    phase_ = phase;
    for (const int expert : wanted) {
        if (!resident(expert)) continue;
        unwanted_[slot_of(expert)] = 0;
        touched_.push_back(slot_of(expert));
    }
}

bool ExpertStore::resident(int expert) const { return slot_of(expert) >= 0; }

bool ExpertStore::ready(int expert) const { return slots_[slot_of(expert)].read.done(); }

bool ExpertStore::request(int expert, bool lasting) {
    int slot = slot_of(expert);
    const bool hit = slot >= 0;
    if (!hit) {
        slot = policy_ == nullptr ? index_of(expert) : free_slot();
        if (slot < 0) return false;
        fill(slot, expert, lasting);
    } else if (policy_ != nullptr && lasting) {
        policy_->used(slot, table_, expert);
    }
    ++(hit ? statistics_.hits : statistics_.misses)[static_cast<int>(phase_)];
    slots_[slot].pinned = true;
    touched_.push_back(slot);
    unpinned_[slot] = unwanted_[slot] = 0;
    return true;
}

int ExpertStore::free_slot() {
    if (!empty_.empty()) {
        const int slot = empty_.back();
        empty_.pop_back();
        return slot;
    }
    int slot = policy_->victim(unwanted_);
    if (slot < 0) slot = policy_->victim(unpinned_);
    if (slot >= 0) forget(slot);
    return slot;
}

void ExpertStore::forget(int slot) {
    slot_of_[slots_[slot].index] = -1;
    slots_[slot].index = -1;
    if (policy_ != nullptr) policy_->removed(slot);
}

void ExpertStore::fill(int slot, int expert, bool lasting) {
    const ExpertEntry& entry = layers_[table_].experts[expert];
    slots_[slot].index = index_of(expert);
    slot_of_[index_of(expert)] = slot;
    if (policy_ != nullptr) policy_->inserted(slot, table_, expert, lasting);
    lanes_.submit(slots_[slot].read, files_[table_], entry.offset, entry.bytes, arena_.data() + slot_offset_[slot],
                  layers_[table_].layer, expert);
    ++statistics_.reads;
    statistics_.bytes_read += entry.bytes;
}

FeedForward ExpertStore::get(int expert) {
    const int slot = slot_of(expert);
    const Read& read = slots_[slot].read;
    statistics_.seconds_waited += lanes_.wait(read);
    if (read.failed()) throw ReadError(read.error());
    const uint8_t* const record = arena_.data() + slot_offset_[slot];
    const ExpertEntry& entry = layers_[table_].experts[expert];
    return {entry.gate.at(record), entry.up.at(record), entry.down.at(record)};
}

void ExpertStore::release(int expert) {
    const int slot = slot_of(expert);
    slots_[slot].pinned = false;
    unpinned_[slot] = unwanted_[slot] = 1;
}

void ExpertStore::end() {
    for (const int slot : touched_) {
        Slot& entry = slots_[slot];
        unpinned_[slot] = unwanted_[slot] = 1;
        if (!entry.pinned) continue;
        entry.pinned = false;
        lanes_.wait(entry.read);
        if (!entry.read.failed()) continue;
        forget(slot);
        if (policy_ != nullptr) empty_.push_back(slot);
    }
    touched_.clear();
}

}  // namespace moecompress
