// The thread pool: a generation counter starts a job, a count of unfinished ranges ends it.
#include "kernels/threads.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace moecompress {
namespace {

constexpr int most_threads = 256;
constexpr size_t stack_bytes = 256 * 1024;
constexpr std::chrono::microseconds spin_limit{30};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Spins until ready() or until the limit; says whether it is ready.
template <class Ready>
bool spin(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + spin_limit;
    do {
        for (int turn = 0; turn < 32; ++turn) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

// Sleeping never misses a wake-up: a sleeper announces itself before it looks once more, a waker writes before it looks
// for sleepers, and all four accesses are sequentially consistent.
struct ThreadPool::State {
    struct Worker {
        State* state = nullptr;
        int index = 0;
        pthread_t thread{};
        std::exception_ptr error;
    };

    std::vector<Worker> workers;
    int64_t items = 0;
    void* body = nullptr;
    Call call = nullptr;
    bool stop = false;

    std::atomic<uint32_t> generation{0};
    std::atomic<int> unfinished{0};
    std::atomic<int> sleepers{0};
    std::atomic<bool> caller_sleeps{false};
    std::mutex mutex;
    std::condition_variable started;
    std::condition_variable finished;

    int64_t begin_of(int range) const { return items * range / (static_cast<int64_t>(workers.size()) + 1); }

    void call_range(int range) {
        const int64_t first = begin_of(range), last = begin_of(range + 1);
        if (first < last) call(body, first, last);
    }

    // Waits until a thread that is about to sleep does, so that the notification that follows reaches it.
    void pass_lock() { const std::lock_guard<std::mutex> lock(mutex); }

    void start_job() {
        unfinished.store(static_cast<int>(workers.size()));
        generation.fetch_add(1);
        if (sleepers.load() == 0) return;
        pass_lock();
        started.notify_all();
    }

    void await_workers() {
        const auto done = [this] { return unfinished.load() == 0; };
        if (spin(done)) return;
        std::unique_lock<std::mutex> lock(mutex);
        caller_sleeps.store(true);
        finished.wait(lock, done);
        caller_sleeps.store(false);
    }

    void await_job(uint32_t seen) {
        const auto begun = [this, seen] { return generation.load() != seen; };
        if (spin(begun)) return;
        std::unique_lock<std::mutex> lock(mutex);
        sleepers.fetch_add(1);
        started.wait(lock, begun);
        sleepers.fetch_sub(1);
    }

    void finish_range() {
        if (unfinished.fetch_sub(1) != 1 || !caller_sleeps.load()) return;
        pass_lock();
        finished.notify_one();
    }

    void work(Worker& worker) {
        for (uint32_t seen = 0;; ++seen) {
            await_job(seen);
            if (stop) return;
            try {
                call_range(worker.index);
            } catch (...) {
                worker.error = std::current_exception();
            }
            finish_range();
        }
    }

    static void* thread_main(void* argument) {
        Worker& worker = *static_cast<Worker*>(argument);
        worker.state->work(worker);
        return nullptr;
    }

    // Ends the first `count` workers.
    void join(size_t count) {
        stop = true;
        start_job();
        for (size_t i = 0; i < count; ++i) pthread_join(workers[i].thread, nullptr);
    }

    void rethrow(std::exception_ptr first) {
        for (Worker& worker : workers) {
            if (!first) first = worker.error;
            worker.error = nullptr;
        }
        if (first) std::rethrow_exception(first);
    }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), state_(std::make_unique<State>()) {
    if (threads < 1 || threads > most_threads)
        throw std::invalid_argument("A pool of " + std::to_string(threads) +
                                    " threads cannot be made; allowed are 1 to " + std::to_string(most_threads) + ".");
    state_->workers.resize(static_cast<size_t>(threads) - 1);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    sigset_t every, before;  // signals belong to the caller's thread
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int error = 0;
    size_t made = 0;
    for (; made < state_->workers.size() && error == 0; made += error == 0) {
        State::Worker& worker = state_->workers[made];
        worker.state = state_.get();
        worker.index = static_cast<int>(made) + 1;
        error = pthread_create(&worker.thread, &attributes, State::thread_main, &worker);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error == 0) return;
    state_->join(made);
    throw std::system_error(error, std::generic_category(), "A worker thread could not be started");
}

ThreadPool::~ThreadPool() { state_->join(state_->workers.size()); }

void ThreadPool::run_split(int64_t items, void* body, Call call) {
    State& state = *state_;
    state.items = items;
    state.body = body;
    state.call = call;
    state.start_job();
    std::exception_ptr error;
    try {
        state.call_range(0);
    } catch (...) {
        error = std::current_exception();
    }
    state.await_workers();
    state.rethrow(error);
}

}  // namespace moecompress
