// Anonymous zeroed memory, page aligned, returned to the system when the owner goes.
#pragma once

#include <cstdint>

namespace moecompress {

class Region {
public:
    Region() = default;
    // Throws std::bad_alloc when the system has no such range. `huge` asks for 2 MiB pages where the kernel has them.
    explicit Region(uint64_t bytes, bool huge = false);
    ~Region();
    Region(Region&& other) noexcept;
    Region& operator=(Region&& other) noexcept;
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

    uint8_t* data() const { return data_; }
    uint64_t bytes() const { return bytes_; }

private:
    uint8_t* data_ = nullptr;
    uint64_t bytes_ = 0;
};

// Hands out 64-byte aligned pieces of a buffer in order; with a null base it only measures.
class Layout {
public:
    explicit Layout(uint8_t* base) : base_(base) {}

    template <typename T>
    T* take(uint64_t count) {
        return reinterpret_cast<T*>(take_bytes(count, sizeof(T)));
    }
    uint64_t used() const { return used_; }
    void rewind(uint64_t used) { used_ = used; }

private:
    uint8_t* take_bytes(uint64_t count, uint64_t size);

    uint8_t* base_;
    uint64_t used_ = 0;
};

}  // namespace moecompress
