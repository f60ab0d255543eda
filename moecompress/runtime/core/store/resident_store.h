// Every expert has a place of its own. All are read once, in the order of the layers, from the moment the store opens
// and while computing goes on; what a layer wants before its turn is read first.
#pragma once

#include <vector>

#include "store/expert_store.h"

namespace moecompress {

class ResidentStore final : public ExpertStore {
public:
    ResidentStore(const Folder& folder, std::vector<ExpertLayer> layers, int64_t hidden, const StoreOptions& options);

    void begin(int table, Phase phase, const std::vector<int>& wanted) override;
    bool present(int expert) const override { return ready(expert, whole_record); }
    bool request(int expert, bool lasting) override;
    void release(int) override {}
    void end() override {}

private:
    int slot_of(int expert) const override { return first_[size_t(table_)] + expert; }

    std::vector<int> first_;  // slot of each table's first expert
};

}  // namespace moecompress
