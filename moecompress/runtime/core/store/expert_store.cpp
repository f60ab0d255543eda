#include "store/expert_store.h"

#include <algorithm>
#include <utility>

#include "store/cached_store.h"
#include "store/errors.h"
#include "store/resident_store.h"

namespace moecompress {

std::unique_ptr<ExpertStore> ExpertStore::open(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                                               StoreOptions options) {
    options.slots = std::min(options.slots, ExpertSlots::total_experts(layers));  // more would never be filled
    if (options.slots == 0) return std::make_unique<ResidentStore>(folder, std::move(layers), hidden, options);
    return std::make_unique<CachedStore>(folder, std::move(layers), hidden, options);
}

ExpertStore::ExpertStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                         const StoreOptions& options)
    : slots_(folder, std::move(layers), hidden, options.slots, options.lanes, options.io), overlap_(options.overlap) {}

FeedForward ExpertStore::get(int expert, int matrices) {
    const int slot = slot_of(expert);
    const Read& read = slots_.read(slot);
    if (!read.ready(matrices)) wait(read, matrices);
    if (read.failed() && slots_.begun_ahead(slot)) {
        read_again(slot, expert);
        wait(read, matrices);
    }
    if (read.failed()) throw ReadError(read.error());
    return slots_.weights(slot, table_, expert);
}

void ExpertStore::wait(const Read& read, int matrices) {
    const double seconds = slots_.lanes().wait(read, matrices);
    lookups().seconds_waited += seconds;
    waited_ += seconds;
}

void ExpertStore::read_again(int slot, int expert) {
    ++statistics_.failed_speculative_reads;
    ++statistics_.reads;
    slots_.fill(slot, table_, expert, Urgency::demand);
}

StoreStatistics ExpertStore::statistics() {
    const Traffic traffic = slots_.lanes().traffic();
    statistics_.bytes_read = traffic.bytes[0] + traffic.bytes[1] - bytes_before_;
    return statistics_;
}

void ExpertStore::clear_statistics() {
    bytes_before_ += statistics().bytes_read;
    statistics_ = {};
}

}  // namespace moecompress
