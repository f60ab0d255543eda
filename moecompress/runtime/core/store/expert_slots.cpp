#include "store/expert_slots.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "store/checked.h"

namespace moecompress {

uint64_t ExpertSlots::largest_record(const std::vector<ExpertLayer>& layers) {
    uint64_t largest = 0;
    for (const ExpertLayer& layer : layers)
        for (const ExpertEntry& entry : layer.experts) largest = std::max(largest, entry.bytes);
    return largest;
}

uint64_t ExpertSlots::total_bytes(const std::vector<ExpertLayer>& layers) {
    uint64_t total = 0;
    for (const ExpertLayer& layer : layers)
        for (const ExpertEntry& entry : layer.experts) total = checked_add(total, entry.bytes);
    return total;
}

int ExpertSlots::total_experts(const std::vector<ExpertLayer>& layers) {
    uint64_t total = 0;
    for (const ExpertLayer& layer : layers) total += layer.experts.size();
    if (total >= uint64_t(1) << 31) throw std::invalid_argument("The artifact lists more than 2^31 experts.");
    return static_cast<int>(total);
}

ExpertSlots::ExpertSlots(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, int slots, int lanes,
                         InputOutput io)
    : layers_(std::move(layers)), lanes_(lanes, slots == 0 ? lanes : 1) {
    for (const ExpertLayer& layer : layers_) {
        const uint64_t probe = layer.experts.empty() ? 0 : layer.experts.front().offset;
        files_.push_back(folder.open(layer.file, io, probe));
        check_layer(layer, hidden, files_.back().size());
    }
    place(slots);
}

void ExpertSlots::place(int slots) {
    uint64_t end = 0;
    const auto add = [&](uint64_t bytes) {
        offset_.push_back(end);
        end = checked_add(end, bytes);
    };
    for (int slot = 0; slot < slots; ++slot) add(largest_record(layers_));
    if (slots == 0)
        for (const ExpertLayer& layer : layers_)
            for (const ExpertEntry& entry : layer.experts) add(entry.bytes);
    while (reads_.size() < offset_.size()) reads_.emplace_back();
    ahead_.assign(offset_.size(), 0);
    arena_ = Region(end, true);
}

bool ExpertSlots::direct() const {
    return std::all_of(files_.begin(), files_.end(), [](const File& file) { return file.direct(); });
}

void ExpertSlots::fill(int slot, int table, int expert, Urgency urgency) {
    const ExpertEntry& record = entry(table, expert);
    Transfer transfer;
    transfer.source = &files_[size_t(table)];
    transfer.offset = record.offset;
    transfer.bytes = record.bytes;
    transfer.ends = part_ends(record);
    transfer.target = arena_.data() + offset_[size_t(slot)];
    transfer.layer = layers_[size_t(table)].layer;
    transfer.expert = expert;
    ahead_[size_t(slot)] = urgency == Urgency::speculative;
    lanes_.submit(read(slot), transfer, urgency);
}

FeedForward ExpertSlots::weights(int slot, int table, int expert) const {
    const uint8_t* const record = arena_.data() + offset_[size_t(slot)];
    const ExpertEntry& matrices = entry(table, expert);
    return {matrices.gate.at(record), matrices.up.at(record), matrices.down.at(record)};
}

}  // namespace moecompress
