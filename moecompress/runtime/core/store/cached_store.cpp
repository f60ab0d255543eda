#include "store/cached_store.h"

#include <utility>

namespace moecompress {

namespace {

// Experts of each layer.
std::vector<int> counts(const std::vector<ExpertLayer>& layers) {
    std::vector<int> result;
    for (const ExpertLayer& layer : layers) result.push_back(int(layer.experts.size()));
    return result;
}

}  // namespace

CachedStore::CachedStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden,
                         const StoreOptions& options)
    : ExpertStore(folder, std::move(layers), hidden, options),
      residency_(counts(this->layers()), options.slots, named_policy(options.policy)),
      read_ahead_(slots_, residency_, statistics_, options.speculation) {}

void CachedStore::begin(int table, Phase phase, const std::vector<int>& wanted) {
    table_ = table;
    phase_ = phase;
    read_ahead_.judge(table, wanted);
    residency_.begin(table, wanted);
}

bool CachedStore::request(int expert, bool lasting) {
    Residency::Place place = residency_.request(expert, lasting);
    if (place.slot < 0 && read_ahead_.give_way()) place = residency_.request(expert, lasting);
    if (place.slot < 0) return false;
    if (place.hit) {
        ++(read_ahead_.first_use(place.slot) ? lookups().speculative_hits : lookups().hits);
        return true;
    }
    read_ahead_.taken(place.slot, residency_.index_of(expert), slots_.bytes(table_, expert));
    slots_.fill(place.slot, table_, expert, Urgency::demand);
    ++lookups().misses;
    ++statistics_.reads;
    return true;
}

// A read still under way belongs to a request that failed or was cancelled.
void CachedStore::end() {
    for (const int slot : residency_.touched()) {
        Read& read = slots_.read(slot);
        if (!residency_.pinned(slot) || read.ready(whole_record)) continue;
        slots_.lanes().cancel(read);
        slots_.lanes().settle(read);
        residency_.forget(slot);
    }
    residency_.end();
}

void CachedStore::token_done() {
    if (!read_ahead_.governor().off()) read_ahead_.governor().token(slots_.lanes().traffic(), waited_);
}

}  // namespace moecompress
