#include "store/region.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "store/checked.h"

namespace moecompress {

Region::Region(uint64_t bytes, bool huge) : bytes_(round_up(bytes, 4096)) {
    if (bytes_ == 0) return;
    void* const data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(data);
    // Without the advice a kernel set to "always" could round small touches up to 2 MiB of resident memory.
    madvise(data_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

Region::~Region() {
    if (data_ != nullptr) munmap(data_, bytes_);
}

Region::Region(Region&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Region& Region::operator=(Region&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

uint8_t* Layout::take_bytes(uint64_t count, uint64_t size) {
    const uint64_t start = used_;
    used_ = round_up(checked_add(start, checked_multiply(count, size)), 64);
    return base_ == nullptr ? nullptr : base_ + start;
}

}  // namespace moecompress
