// Fork and join over a fixed set of threads: one job at a time, split into contiguous ranges.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace moecompress {

// `threads` counts the caller, which takes the first range; with one thread `run` is a plain call. Waiting spins for a
// few tens of microseconds and then sleeps, so a busy machine costs a wake-up, never a core. One caller at a time; a
// body must not call `run` of its own pool. Threads do not survive fork().
class ThreadPool {
public:
    explicit ThreadPool(int threads);  // throws std::invalid_argument or std::system_error
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return threads_; }

    // Calls body(first, last) on ranges that cover [0, items) once: range i of n begins at items * i / n. Returns when
    // all are done and rethrows the first exception in range order.
    template <class Body>
    void run(int64_t items, Body&& body) {
        if (threads_ == 1 || items <= 1) {
            if (items > 0) body(int64_t{0}, items);
            return;
        }
        using Plain = std::remove_reference_t<Body>;
        run_split(items, const_cast<void*>(static_cast<const void*>(&body)),
                  [](void* erased, int64_t first, int64_t last) { (*static_cast<Plain*>(erased))(first, last); });
    }

private:
    using Call = void (*)(void* body, int64_t first, int64_t last);
    struct State;

    void run_split(int64_t items, void* body, Call call);

    int threads_;
    std::unique_ptr<State> state_;
};

}  // namespace moecompress
