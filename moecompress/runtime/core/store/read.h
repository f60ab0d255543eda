// One expert record on its way from disk to memory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "store/source.h"

namespace moecompress {

// Matrices of a record in the order they lie on disk.
constexpr int gate_and_up = 2;
constexpr int whole_record = 3;

enum class Urgency { speculative = 0, demand = 1 };

// Where a record comes from and goes to.
struct Transfer {
    const Source* source = nullptr;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    std::array<uint64_t, 3> ends{};  // of the parts that hold the leading one, two and three matrices; on pages
    uint8_t* target = nullptr;
    int layer = 0, expert = 0;  // what its header must say
};

// The owner keeps a submitted read alive, and its target untouched, until settled() is true.
class Read {
public:
    // The record's leading `matrices` are there and its header is the right one.
    bool ready(int matrices) const {
        const int now = status_.load(std::memory_order_acquire);
        return matrices <= now && now <= whole_record;
    }
    // Nothing is being written to the target: the record is whole, or nothing of it is kept.
    bool settled() const { return status_.load(std::memory_order_acquire) >= whole_record; }
    bool failed() const { return status_.load(std::memory_order_acquire) == broken; }
    const std::string& error() const { return error_; }  // valid when failed()

private:
    friend class ReaderLanes;
    // A status up to whole_record counts the matrices that are there.
    static constexpr int broken = 4;     // could not be read
    static constexpr int abandoned = 5;  // cancelled, or never submitted

    std::atomic<int> status_{abandoned};
    std::string error_;
    // The lanes' own, under their lock:
    Transfer transfer_;
    uint64_t taken_ = 0;               // leading bytes handed to readers
    uint64_t arrived_ = 0;             // bytes that are there
    std::array<int, 3> under_way_{};   // pieces of each part that readers are filling
    int end_ = whole_record;           // the status it is to settle with
    Urgency urgency_ = Urgency::demand;
};

}  // namespace moecompress
