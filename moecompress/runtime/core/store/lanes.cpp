#include "store/lanes.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>

#include "store/record.h"

namespace moecompress {

ReaderLanes::ReaderLanes(int lanes, int most_speculative) : most_speculative_(most_speculative), clock_(Clock::now()) {
    sigset_t every, before;  // signals belong to the caller's thread
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    try {
        for (int lane = 0; lane < lanes; ++lane) threads_.emplace_back([this] { work(); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        stop();
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
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

void ReaderLanes::submit(Read& read, const Transfer& transfer, Urgency urgency) {
    const std::lock_guard<std::mutex> lock(mutex_);
    advance_clock();
    read.transfer_ = transfer;
    read.taken_ = read.arrived_ = 0;
    read.under_way_ = {};
    read.end_ = whole_record;
    read.urgency_ = urgency;
    read.status_.store(0, std::memory_order_relaxed);
    queues_[int(urgency)].push_back(&read);
    submitted_.notify_one();
}

uint64_t ReaderLanes::promote(Read& read) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t there = read.arrived_;
    if (read.settled() || read.urgency_ == Urgency::demand) return there;
    advance_clock();
    const bool waits = read.taken_ < read.transfer_.bytes;
    withdraw(read);
    read.urgency_ = Urgency::demand;
    if (waits) queues_[int(Urgency::demand)].push_back(&read);
    submitted_.notify_one();
    return there;
}

uint64_t ReaderLanes::cancel(Read& read) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (read.settled()) return read.failed() ? 0 : read.arrived_;
    advance_clock();
    withdraw(read);
    read.end_ = Read::abandoned;
    publish(read);
    return read.taken_;
}

double ReaderLanes::wait(const Read& read, int matrices) {
    const auto enough = [&] { return read.ready(matrices) || read.failed(); };
    if (enough()) return 0.0;
    const Clock::time_point start = Clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!enough()) {
        if (queue(Urgency::demand).empty())
            progressed_.wait(lock);
        else
            carry_out(take(), lock);
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void ReaderLanes::settle(const Read& read) {
    std::unique_lock<std::mutex> lock(mutex_);
    progressed_.wait(lock, [&read] { return read.settled(); });
}

Traffic ReaderLanes::traffic() {
    const std::lock_guard<std::mutex> lock(mutex_);
    advance_clock();
    return traffic_;
}

void ReaderLanes::advance_clock() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - clock_).count();
    clock_ = now;
    if (!demanded()) return;
    traffic_.demand_seconds += seconds;
    if (under_way_[int(Urgency::speculative)] > 0) traffic_.delayed_seconds += seconds;
}

void ReaderLanes::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        submitted_.wait(lock, [this] { return stopping_ || available(); });
        if (stopping_) return;
        carry_out(take(), lock);
    }
}

// Whether a lane may begin a piece: reading ahead waits until no demand read is queued or under way.
bool ReaderLanes::available() const {
    if (!queue(Urgency::demand).empty()) return true;
    return !demanded() && !queue(Urgency::speculative).empty() && under_way_[0] < most_speculative_;
}

ReaderLanes::Piece ReaderLanes::take() {
    advance_clock();
    const Urgency urgency = queue(Urgency::demand).empty() ? Urgency::speculative : Urgency::demand;
    std::deque<Read*>& waiting = queues_[int(urgency)];
    Read& read = *waiting.front();
    int part = 0;
    while (read.transfer_.ends[size_t(part)] <= read.taken_) ++part;
    const uint64_t most = urgency == Urgency::demand ? demand_piece : speculative_piece;
    const uint64_t bytes = std::min(most, read.transfer_.ends[size_t(part)] - read.taken_);
    const Piece piece{&read, part, read.taken_, bytes, urgency};
    read.taken_ += bytes;
    ++read.under_way_[size_t(part)];
    ++under_way_[int(urgency)];
    if (read.taken_ == read.transfer_.bytes) waiting.pop_front();
    if (available()) submitted_.notify_one();
    return piece;
}

void ReaderLanes::carry_out(const Piece& piece, std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    const Transfer& transfer = piece.read->transfer_;
    std::string error;
    try {
        uint8_t* const target = transfer.target + piece.begin;
        transfer.source->read(target, piece.bytes, transfer.offset + piece.begin);
        if (piece.begin == 0)
            check_header(target, transfer.bytes, transfer.layer, transfer.expert, transfer.source->name());
    } catch (const std::exception& failure) {
        error = failure.what();
    }
    lock.lock();
    finish(piece, error);
}

void ReaderLanes::finish(const Piece& piece, const std::string& error) {
    advance_clock();
    Read& read = *piece.read;
    --read.under_way_[size_t(piece.part)];
    --under_way_[int(piece.urgency)];
    if (error.empty()) {
        traffic_.bytes[int(piece.urgency)] += piece.bytes;
        read.arrived_ += piece.bytes;
    } else if (read.end_ != Read::broken) {
        withdraw(read);
        read.end_ = Read::broken;
        read.error_ = error;
    }
    publish(read);
    if (available()) submitted_.notify_one();
}

// Lets the owner see how far a read has come.
void ReaderLanes::publish(Read& read) {
    const bool quiet = read.under_way_ == std::array<int, 3>{};
    int matrices = 0;
    while (matrices < whole_record && read.taken_ >= read.transfer_.ends[size_t(matrices)] &&
           read.under_way_[size_t(matrices)] == 0)
        ++matrices;
    if (read.end_ == whole_record)
        read.status_.store(matrices, std::memory_order_release);
    else if (quiet)
        read.status_.store(read.end_, std::memory_order_release);
    progressed_.notify_all();
}

void ReaderLanes::withdraw(Read& read) {
    std::deque<Read*>& waiting = queues_[int(read.urgency_)];
    const auto found = std::find(waiting.begin(), waiting.end(), &read);
    if (found != waiting.end()) waiting.erase(found);
}

}  // namespace moecompress
