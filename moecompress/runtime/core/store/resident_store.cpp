#include "store/resident_store.h"

#include <utility>

namespace moecompress {

ResidentStore::ResidentStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                             const StoreOptions& options)
    : ExpertStore(folder, std::move(layers), hidden, options) {
    int slot = 0;
    for (int table = 0; table < int(this->layers().size()); ++table) {
        first_.push_back(slot);
        const int experts = int(this->layers()[size_t(table)].experts.size());
        for (int expert = 0; expert < experts; ++expert) slots_.fill(slot++, table, expert, Urgency::speculative);
    }
    statistics_.reads = uint64_t(slot);
}

void ResidentStore::begin(int table, Phase phase, const std::vector<int>&) {
    table_ = table;
    phase_ = phase;
}

bool ResidentStore::request(int expert, bool) {
    const int slot = slot_of(expert);
    Read& read = slots_.read(slot);
    if (read.ready(whole_record)) {
        ++lookups().hits;
        return true;
    }
    ++lookups().misses;
    if (read.failed())
        read_again(slot, expert);
    else
        slots_.lanes().promote(read);
    return true;
}

}  // namespace moecompress
