// Which cached expert to give up. One policy per file; adding a file adds the policy by its name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moecompress {

// Told by the compute thread only, so a policy needs no locks. A slot holds one expert.
class CachePolicy {
public:
    virtual ~CachePolicy() = default;
    // An expert now lies in the slot. `lasting` is false for experts that a long prompt merely passes through.
    virtual void inserted(int slot, int layer, int expert, bool lasting) = 0;
    // The expert in the slot was used again.
    virtual void used(int slot, int layer, int expert) = 0;
    // The slot no longer holds an expert.
    virtual void removed(int slot) = 0;
    // The slot to give up among those with allowed[slot] != 0 that hold an expert; -1 when there is none.
    virtual int victim(const std::vector<uint8_t>& allowed) const = 0;
};

using PolicyFactory = std::function<std::unique_ptr<CachePolicy>(int slots)>;

// Names the policy at load time: `static const RegisteredPolicy lru("lru", factory);`
struct RegisteredPolicy {
    RegisteredPolicy(const std::string& name, PolicyFactory factory);
};

// Throws std::invalid_argument for an unknown name, listing the known ones.
std::unique_ptr<CachePolicy> make_policy(const std::string& name, int slots);

}  // namespace moecompress
