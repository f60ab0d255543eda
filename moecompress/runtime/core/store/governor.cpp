#include "store/governor.h"

#include <algorithm>

namespace moecompress {

namespace {

constexpr int trial_tokens = 16;
constexpr int shortest_rest = 64, longest_rest = 2048;  // tokens
constexpr double margin = 0.02;                         // of the disk time of demand reads
constexpr float precision_share = 1.0f / 64;
constexpr double average_share = 1.0 / 8;

void average(double& mean, double value, double share) { mean = mean == 0.0 ? value : mean + share * (value - mean); }

}  // namespace

void Governor::judge(int rank, bool right, uint64_t saved) {
    float& precision = precision_[size_t(rank)];
    precision += precision_share * ((right ? 1.0f : 0.0f) - precision);
    saved_ += double(saved);
}

void Governor::reach(Window window, int guessed, int whole) {
    int& depth = depth_[size_t(window)];
    if (whole == guessed && guessed == depth) depth = std::min(depth + 1, most_experts);
    if (whole + 1 < guessed) depth = std::max(depth - 1, 1);
}

void Governor::token(const Traffic& traffic, double seconds_waited) {
    const int demand = int(Urgency::demand);
    const double seconds = traffic.demand_seconds - traffic_.demand_seconds;
    const double bytes = double(traffic.bytes[demand] - traffic_.bytes[demand]);
    const double delayed = traffic.delayed_seconds - traffic_.delayed_seconds;
    if (bytes > 0.0 && seconds > 0.0) {
        average(seconds_per_byte_, seconds / bytes, average_share);
        average(exposed_, std::min(1.0, (seconds_waited - waited_) / seconds), average_share);
    }
    gain_ += exposed_ * (seconds_per_byte_ * (saved_ - given_up_) - delayed) - guessing_;
    demand_seconds_ += seconds;
    traffic_ = traffic;
    waited_ = seconds_waited;
    saved_ = given_up_ = guessing_ = 0.0;
    ++tokens_;
    if (mode_ == Speculation::automatic && tokens_ >= (active_ ? trial_tokens : rest_)) decide();
}

// After a trial: go on, or rest, twice as long as the time before; after a rest: try again.
void Governor::decide() {
    const bool paid = gain_ > margin * demand_seconds_;
    if (!active_) rest_ = std::min(2 * rest_, longest_rest);
    if (active_ && paid) rest_ = shortest_rest;
    active_ = !active_ || paid;
    tokens_ = 0;
    gain_ = demand_seconds_ = 0.0;
}

}  // namespace moecompress
