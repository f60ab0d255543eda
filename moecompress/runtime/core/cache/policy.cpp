#include "cache/policy.h"

#include <map>
#include <stdexcept>
#include <utility>

namespace moecompress {

namespace {

std::map<std::string, PolicyFactory>& registry() {
    static std::map<std::string, PolicyFactory> factories;
    return factories;
}

}  // namespace

RegisteredPolicy::RegisteredPolicy(const std::string& name, PolicyFactory factory) {
    registry()[name] = std::move(factory);
}

std::unique_ptr<CachePolicy> make_policy(const std::string& name, int slots) {
    const auto found = registry().find(name);
    if (found != registry().end()) return found->second(slots);
    std::string known;
    for (const auto& entry : registry()) known += (known.empty() ? "" : ", ") + entry.first;
    throw std::invalid_argument("Unknown cache policy '" + name + "'. Allowed: " + known + ".");
}

}  // namespace moecompress
