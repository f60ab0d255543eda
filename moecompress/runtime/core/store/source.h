// Where bytes of records come from.
#pragma once

#include <cstdint>
#include <string>

namespace moecompress {

class Source {
public:
    virtual ~Source() = default;
    // Fills target with bytes [offset, offset + bytes); from several threads at once. Throws ReadError.
    virtual void read(uint8_t* target, uint64_t bytes, uint64_t offset) const = 0;
    virtual const std::string& name() const = 0;
};

}  // namespace moecompress
