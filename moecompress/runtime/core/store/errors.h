// What can go wrong while a request runs. Bad arguments and malformed models are std::invalid_argument.
#pragma once

#include <stdexcept>

namespace moecompress {

// A file that no longer gives the bytes it promised: the request fails, the engine stays usable.
struct ReadError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The request was cancelled; tokens of finished chunks stay in the KV cache.
struct Cancelled : std::runtime_error {
    Cancelled() : std::runtime_error("The request was cancelled.") {}
};

}  // namespace moecompress
