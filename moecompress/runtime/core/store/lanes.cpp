#include "store/lanes.h"

#include <chrono>
#include <exception>

#include "store/record.h"

namespace moecompress {

ReaderLanes::ReaderLanes(int lanes) {
    try {
        for (int lane = 0; lane < lanes; ++lane) threads_.emplace_back([this] { work(); });
    } catch (...) {  // a process may be at its limit of threads
        stop();
        throw;
    }
}

ReaderLanes::~ReaderLanes() { stop(); }

void ReaderLanes::stop() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    submitted_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ReaderLanes::submit(Read& read, const File& file, uint64_t offset, uint64_t bytes, uint8_t* target, int layer,
                         int expert) {
    read.file_ = &file;
    read.target_ = target;
    read.bytes_ = bytes;
    read.offset_ = offset;
    read.layer_ = layer;
    read.expert_ = expert;
    read.state_.store(Read::State::pending, std::memory_order_relaxed);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        queue_.push_back(&read);
    }
    submitted_.notify_one();
}

double ReaderLanes::wait(const Read& read) {
    if (read.done()) return 0.0;
    const auto start = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    completed_.wait(lock, [&read] { return read.done(); });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ReaderLanes::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        submitted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        Read& read = *queue_.front();
        queue_.pop_front();
        lock.unlock();
        carry_out(read);
        completed_.notify_all();
        lock.lock();
    }
}

void ReaderLanes::carry_out(Read& read) {
    Read::State outcome = Read::State::ready;
    try {
        read.file_->read(read.target_, read.bytes_, read.offset_);
        check_header(read.target_, read.bytes_, read.layer_, read.expert_, read.file_->name());
    } catch (const std::exception& error) {
        read.error_ = error.what();
        outcome = Read::State::failed;
    }
    const std::lock_guard<std::mutex> lock(mutex_);  // a waiter either sees the new state or is already asleep
    read.state_.store(outcome, std::memory_order_release);
}

}  // namespace moecompress
