// Fewer slots than experts: which stay is up to a cache policy, what is missing is read when it is wanted.
#pragma once

#include <vector>

#include "cache/residency.h"
#include "store/expert_store.h"

namespace moecompress {

class CachedStore final : public ExpertStore {
public:
    // Throws std::invalid_argument for an unknown policy, too.
    CachedStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, const StoreOptions& options);
    ~CachedStore() override { end(); }

    void begin(int table, Phase phase, const std::vector<int>& wanted) override;
    bool present(int expert) const override { return residency_.slot_of(expert) >= 0; }
    bool request(int expert, bool lasting) override;
    void release(int expert) override { residency_.release(expert); }
    void end() override;
    ReadAhead* read_ahead() override { return read_ahead_.governor().off() ? nullptr : &read_ahead_; }
    void token_done() override;

private:
    int slot_of(int expert) const override { return residency_.slot_of(expert); }

    Residency residency_;
    ReadAhead read_ahead_;
};

}  // namespace moecompress
