// Whether reading ahead pays, and how far ahead to read: running averages of what it was seen to save and to cost.
//
// A guess that came true saved the disk time of the bytes that were there when they were wanted. It costs the time that
// demand reads shared the disk with a piece read ahead, the disk time of experts that had to make room and were wanted
// again, and the time to make guesses. Disk time counts as far as computing waits for the disk at all:
//
//     gain = exposed * (seconds per byte * (saved - given up) - delayed) - guessing      per token
#pragma once

#include <array>
#include <cstdint>

#include "store/lanes.h"

namespace moecompress {

enum class Speculation { off, automatic, on };

// Guesses are made for the next layer, while attention runs, and for the first layers of the next token, while the head
// runs and a token is chosen.
enum class Window { between_layers = 0, between_tokens = 1 };

class Governor {
public:
    static constexpr int most_experts = 4;  // read ahead of one layer

    explicit Governor(Speculation mode) : mode_(mode), active_(mode != Speculation::off) {}

    bool off() const { return mode_ == Speculation::off; }
    bool active() const { return active_; }
    // Experts to read ahead of one layer.
    int depth(Window window) const { return depth_[int(window)]; }
    // How often guesses of this rank among those read for a layer came true.
    float precision(int rank) const { return precision_[size_t(rank)]; }

    // A layer's routing is known. `saved` bytes of a right guess were there.
    void judge(int rank, bool right, uint64_t saved);
    // Of `guessed` experts read ahead of a layer, `whole` ones were in time.
    void reach(Window window, int guessed, int whole);
    // An expert that had to make room for a guess was wanted again.
    void regret(uint64_t bytes) { given_up_ += double(bytes); }
    void guessing(double seconds) { guessing_ += seconds; }
    // A token is done; all values count from the beginning.
    void token(const Traffic& traffic, double seconds_waited);

private:
    void decide();

    Speculation mode_;
    bool active_;
    std::array<int, 2> depth_{1, 1};
    std::array<float, most_experts> precision_{0.5f, 0.5f, 0.5f, 0.5f};
    double saved_ = 0.0, given_up_ = 0.0, guessing_ = 0.0;  // since the last token
    Traffic traffic_;
    double waited_ = 0.0;
    double seconds_per_byte_ = 0.0, exposed_ = 0.0;  // running averages
    double gain_ = 0.0, demand_seconds_ = 0.0;       // sums over the tokens of a trial
    int tokens_ = 0;                                 // of this trial or rest
    int rest_ = 64;                                  // tokens without reading ahead after a trial that did not pay
};

}  // namespace moecompress
