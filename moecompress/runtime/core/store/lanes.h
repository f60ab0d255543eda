// A few threads that read records in the order they were asked for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "store/file.h"

namespace moecompress {

// One record on its way from disk to memory. The owner keeps it alive until done() is true.
class Read {
public:
    bool done() const { return state_.load(std::memory_order_acquire) != State::pending; }
    bool failed() const { return state_.load(std::memory_order_acquire) == State::failed; }
    const std::string& error() const { return error_; }  // valid when failed()

private:
    friend class ReaderLanes;
    enum class State : uint8_t { ready, pending, failed };

    std::atomic<State> state_{State::ready};
    std::string error_;
    const File* file_ = nullptr;
    uint8_t* target_ = nullptr;
    uint64_t bytes_ = 0, offset_ = 0;
    int layer_ = 0, expert_ = 0;
};

class ReaderLanes {
public:
    explicit ReaderLanes(int lanes);
    ~ReaderLanes();
    ReaderLanes(const ReaderLanes&) = delete;
    ReaderLanes& operator=(const ReaderLanes&) = delete;

    // Starts filling target with a whole record, whose header is then checked against layer and expert.
    void submit(Read& read, const File& file, uint64_t offset, uint64_t bytes, uint8_t* target, int layer, int expert);
    // Sleeps until the read is done; returns the seconds slept.
    double wait(const Read& read);

private:
    void stop();
    void work();
    void carry_out(Read& read);

    std::mutex mutex_;
    std::condition_variable submitted_, completed_;
    std::deque<Read*> queue_;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace moecompress
