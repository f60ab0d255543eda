#include "store/expert_store.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "store/checked.h"
#include "store/errors.h"

namespace moecompress {

namespace {

// Experts of each layer.
std::vector<int> counts(const std::vector<ExpertLayer>& layers) {
    std::vector<int> result;
    ExpertStore::total_experts(layers);  // fits an int
    for (const ExpertLayer& layer : layers) result.push_back(int(layer.experts.size()));
    return result;
}

// More slots than experts would never be filled.
int useful_slots(const std::vector<ExpertLayer>& layers, int slots) {
    return std::min(slots, ExpertStore::total_experts(layers));
}

}  // namespace

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
    : layers_(std::move(layers)),
      residency_(counts(layers_), useful_slots(layers_, options.slots), named_policy(options.policy)),
      lanes_(options.lanes) {
    const int slots = useful_slots(layers_, options.slots);
    uint64_t offset = 0;
    for (const ExpertLayer& layer : layers_) {
        const uint64_t probe = layer.experts.empty() ? 0 : layer.experts.front().offset;
        files_.push_back(folder.open(layer.file, options.io, probe));
        check_layer(layer, hidden, files_.back().size());
        if (slots > 0) continue;
        for (const ExpertEntry& entry : layer.experts) {
            slot_offset_.push_back(offset);
            offset += entry.bytes;
        }
    }
    for (int slot = 0; slot < slots; ++slot) slot_offset_.push_back(uint64_t(slot) * largest_record(layers_));
    while (reads_.size() < slot_offset_.size()) reads_.emplace_back();
    arena_ = Region(arena_bytes(layers_, slots), true);
}

ExpertStore::~ExpertStore() { end(); }

bool ExpertStore::direct() const {
    return std::all_of(files_.begin(), files_.end(), [](const File& file) { return file.direct(); });
}

void ExpertStore::begin(int table, Phase phase, const std::vector<int>& wanted) {
    residency_.begin(table, wanted);
    phase_ = phase;
}

bool ExpertStore::resident(int expert) const { return residency_.slot_of(expert) >= 0; }

bool ExpertStore::ready(int expert) const { return reads_[residency_.slot_of(expert)].done(); }

bool ExpertStore::request(int expert, bool lasting) {
    const Residency::Place place = residency_.request(expert, lasting);
    if (place.slot < 0) return false;
    if (!place.hit) fill(place.slot, expert);
    ++(place.hit ? statistics_.hits : statistics_.misses)[static_cast<int>(phase_)];
    return true;
}

void ExpertStore::fill(int slot, int expert) {
    const int table = residency_.layer();
    lanes_.submit(reads_[slot], files_[table], entry(expert).offset, entry(expert).bytes,
                  arena_.data() + slot_offset_[slot], layers_[table].layer, expert);
    ++statistics_.reads;
    statistics_.bytes_read += entry(expert).bytes;
}

FeedForward ExpertStore::get(int expert) {
    const int slot = residency_.slot_of(expert);
    const Read& read = reads_[slot];
    statistics_.seconds_waited += lanes_.wait(read);
    if (read.failed()) throw ReadError(read.error());
    const uint8_t* const record = arena_.data() + slot_offset_[slot];
    return {entry(expert).gate.at(record), entry(expert).up.at(record), entry(expert).down.at(record)};
}

void ExpertStore::release(int expert) { residency_.release(expert); }

void ExpertStore::end() {
    for (const int slot : residency_.touched()) {
        if (!residency_.pinned(slot)) continue;
        lanes_.wait(reads_[slot]);
        if (reads_[slot].failed()) residency_.forget(slot);
    }
    residency_.end();
}

}  // namespace moecompress
