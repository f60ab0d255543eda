// A few threads that read records: what is needed now first, what may be needed soon while the disk is idle.
//
// A record is read in pieces, so that several lanes share one, its first matrices can be used while the rest is on its
// way, and a speculative read gives way to a demand read after at most one piece of 256 KiB.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "store/read.h"

namespace moecompress {

constexpr uint64_t demand_piece = uint64_t(1) << 20;
constexpr uint64_t speculative_piece = uint64_t(256) << 10;

// What the lanes have done so far.
struct Traffic {
    uint64_t bytes[2] = {0, 0};    // by Urgency
    double demand_seconds = 0.0;   // at least one demand read was under way
    double delayed_seconds = 0.0;  // of them, a speculative piece begun earlier was under way too
};

class ReaderLanes {
public:
    // At most `most_speculative` lanes read ahead at once. Throws std::system_error when a thread cannot be made.
    ReaderLanes(int lanes, int most_speculative);
    ~ReaderLanes();
    ReaderLanes(const ReaderLanes&) = delete;
    ReaderLanes& operator=(const ReaderLanes&) = delete;

    // Queues a settled read, behind the others of its kind.
    void submit(Read& read, const Transfer& transfer, Urgency urgency);
    // Turns a speculative read into a demand read, submitted last. Returns the bytes that were there already.
    uint64_t promote(Read& read);
    // Keeps nothing of a read: no further piece is begun, and it settles when those under way are done. Returns the
    // bytes that were read for nothing so far.
    uint64_t cancel(Read& read);
    // Until the leading `matrices` are there or the read failed; reads pending demand itself instead of sleeping.
    // Returns the seconds it took.
    double wait(const Read& read, int matrices);
    // Until the read is settled.
    void settle(const Read& read);
    Traffic traffic();

private:
    using Clock = std::chrono::steady_clock;
    struct Piece {
        Read* read;
        int part;
        uint64_t begin, bytes;
        Urgency urgency;
    };

    void work();
    void stop();
    bool available() const;
    Piece take();
    void carry_out(const Piece& piece, std::unique_lock<std::mutex>& lock);
    void finish(const Piece& piece, const std::string& error);
    void publish(Read& read);
    void withdraw(Read& read);
    bool demanded() const { return !queue(Urgency::demand).empty() || under_way_[1] > 0; }
    const std::deque<Read*>& queue(Urgency urgency) const { return queues_[int(urgency)]; }
    void advance_clock();

    std::mutex mutex_;
    std::condition_variable submitted_, progressed_;
    std::deque<Read*> queues_[2];  // by Urgency
    int under_way_[2] = {0, 0};    // pieces
    const int most_speculative_;
    Traffic traffic_;
    Clock::time_point clock_;  // up to which traffic_ counts seconds
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace moecompress
