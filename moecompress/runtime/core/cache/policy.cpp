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

const PolicyFactory& named_policy(const std::string& name) {
    const auto found = registry().find(name);
    if (found != registry().end()) return found->second;
    std::string known;
    for (const std::string& other : policy_names()) known += (known.empty() ? "" : ", ") + other;
    throw std::invalid_argument("Unknown cache policy '" + name + "'. Allowed: " + known + ".");
}

std::vector<std::string> policy_names() {
    std::vector<std::string> names;
    for (const auto& entry : registry()) names.push_back(entry.first);
    return names;
}

}  // namespace moecompress
