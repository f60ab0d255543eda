// Which cached expert to give up. One policy per file; adding a file adds the policy by its name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moecompress {

// What a policy may look at. Layers count layers with routed experts, experts are numbered over all layers; a pass is
// one run over all layers: of a token while decoding, of a chunk of a prompt otherwise.
struct CacheView {
    int slots = 0;
    int layers = 0;
    std::vector<int> layer_of;  // of each expert
    int64_t pass = 0;           // passes begun so far
    int layer = 0;              // at work now

    int experts() const { return int(layer_of.size()); }
    // Layers from now until the expert's own runs next: 1 for the coming layer, `layers` for the one at work.
    int distance(int expert) const { return (layer_of[size_t(expert)] - layer - 1 + layers) % layers + 1; }
};

// Told by the compute thread only, so a policy needs no locks. A slot holds one expert.
class CachePolicy {
public:
    virtual ~CachePolicy() = default;
    // An expert now lies in the slot. `lasting` is false for experts that a long prompt merely passes through.
    virtual void inserted(int slot, int expert, bool lasting) = 0;
    // The expert in the slot was used again.
    virtual void used(int slot, int expert) = 0;
    // The slot no longer holds an expert.
    virtual void removed(int slot) = 0;
    // The slot to give up among those with allowed[slot] != 0 that hold an expert; -1 when there is none.
    virtual int victim(const std::vector<uint8_t>& allowed) const = 0;
    // How likely the layer of the expert in the slot wants it when it runs next; 0 when the policy cannot tell.
    virtual float chance(int) const { return 0.0f; }
};

// The view outlives the policy and changes while work goes on.
using PolicyFactory = std::function<std::unique_ptr<CachePolicy>(const CacheView& view)>;

// Names the policy at load time: `const RegisteredPolicy lru("lru", factory);`
struct RegisteredPolicy {
    RegisteredPolicy(const std::string& name, PolicyFactory factory);
};

// Throws std::invalid_argument for an unknown name, listing the known ones.
const PolicyFactory& named_policy(const std::string& name);
std::vector<std::string> policy_names();

}  // namespace moecompress
