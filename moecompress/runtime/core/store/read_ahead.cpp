#include "store/read_ahead.h"

#include <algorithm>

namespace moecompress {

ReadAhead::ReadAhead(ExpertSlots& slots, Residency& residency, StoreStatistics& statistics, Speculation mode)
    : slots_(slots),
      residency_(residency),
      statistics_(statistics),
      governor_(mode),
      state_(size_t(slots.count()), State::ordinary),
      bytes_(size_t(slots.count()), 0),
      displaced_(size_t(ExpertSlots::total_experts(slots.layers())), 0) {}

void ReadAhead::guess(int table, const std::vector<int>& likely, Window window) {
    free_lost(-1);
    int rank = 0;
    for (const int expert : likely) {
        if (rank == governor_.depth(window)) return;
        if (residency_.slot_of(table, expert) >= 0) continue;
        if (!start({-1, table, expert, rank, window})) return;
        ++rank;
    }
}

bool ReadAhead::start(Guess guess) {
    if (guesses_.size() + lost_.size() >= state_.size() / 4) return false;
    const Residency::Place place = residency_.claim(guess.table, guess.expert, governor_.precision(guess.rank));
    if (place.slot < 0) return false;
    vacate(place.slot);
    if (place.given_up >= 0) displaced_[size_t(place.given_up)] = 1;
    displaced_[size_t(residency_.index_of(guess.table, guess.expert))] = 0;
    guess.slot = place.slot;
    guesses_.push_back(guess);
    state_[size_t(place.slot)] = State::unproven;
    bytes_[size_t(place.slot)] = slots_.bytes(guess.table, guess.expert);
    slots_.fill(place.slot, guess.table, guess.expert, Urgency::speculative);
    ++statistics_.speculative_reads;
    return true;
}

void ReadAhead::judge(int table, const std::vector<int>& wanted) {
    free_lost(table);
    int guessed = 0, whole = 0;
    Window window = Window::between_layers;
    for (const Guess& guess : guesses_) {
        if (guess.table != table) continue;
        Read& read = slots_.read(guess.slot);
        const bool right = std::binary_search(wanted.begin(), wanted.end(), guess.expert) && !read.failed();
        window = guess.window;
        ++guessed;
        whole += read.ready(whole_record);
        governor_.judge(guess.rank, right, right ? slots_.lanes().promote(read) : 0);
        if (!right) keep_or_cancel(guess);
    }
    if (guessed == 0) return;
    governor_.reach(window, guessed, whole);
    const auto judged = [table](const Guess& guess) { return guess.table == table; };
    guesses_.erase(std::remove_if(guesses_.begin(), guesses_.end(), judged), guesses_.end());
}

void ReadAhead::keep_or_cancel(const Guess& guess) {
    Read& read = slots_.read(guess.slot);
    if (read.ready(whole_record)) {
        residency_.end_claim(guess.slot);
        return;
    }
    statistics_.failed_speculative_reads += read.failed();
    bytes_[size_t(guess.slot)] = slots_.lanes().cancel(read);
    vacate(guess.slot);
    state_[size_t(guess.slot)] = State::lost;
    lost_.push_back({guess.slot, guess.table});
    free_lost(-1);
}

// Those of the layer that begins now must be gone, so that their experts can be read anew.
void ReadAhead::free_lost(int table) {
    const auto freed = [&](const Lost& lost) {
        if (lost.table == table) slots_.lanes().settle(slots_.read(lost.slot));
        if (!slots_.read(lost.slot).settled()) return false;
        residency_.forget(lost.slot);
        state_[size_t(lost.slot)] = State::ordinary;
        return true;
    };
    lost_.erase(std::remove_if(lost_.begin(), lost_.end(), freed), lost_.end());
}

bool ReadAhead::give_way() {
    if (guesses_.empty() && lost_.empty()) return false;
    for (const Guess& guess : guesses_) keep_or_cancel(guess);
    guesses_.clear();
    for (const Lost& lost : lost_) slots_.lanes().settle(slots_.read(lost.slot));
    free_lost(-1);
    return true;
}

bool ReadAhead::first_use(int slot) {
    if (state_[size_t(slot)] != State::unproven) return false;
    state_[size_t(slot)] = State::ordinary;
    return true;
}

void ReadAhead::taken(int slot, int index, uint64_t bytes) {
    vacate(slot);
    if (displaced_[size_t(index)] == 0) return;
    displaced_[size_t(index)] = 0;
    governor_.regret(bytes);
}

// What was read ahead into the slot goes unused.
void ReadAhead::vacate(int slot) {
    if (state_[size_t(slot)] != State::unproven) return;
    state_[size_t(slot)] = State::ordinary;
    ++statistics_.wasted_reads;
    statistics_.wasted_bytes += bytes_[size_t(slot)];
}

}  // namespace moecompress
