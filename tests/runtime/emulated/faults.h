// Faults a test puts into the emulated machine through the environment.
#ifndef MOECOMPRESS_EMULATED_FAULTS
#define MOECOMPRESS_EMULATED_FAULTS

#include <cstdlib>
#include <cstring>

namespace emulated {

inline bool is_set(const char* variable, const char* value) {
    const char* const found = std::getenv(variable);
    return found != nullptr && std::strcmp(found, value) == 0;
}

// EMULATED_LACKS names a path that the processor does not have.
inline bool lacks(const char* path) { return is_set("EMULATED_LACKS", path); }

// EMULATED_FAULT=wrong: 512-bit dot products of bytes are one too large. EMULATED_FAULT=illegal: they are not allowed.
inline bool wrong_dots() {
    static const bool wrong = is_set("EMULATED_FAULT", "wrong"), illegal = is_set("EMULATED_FAULT", "illegal");
    if (illegal) __builtin_trap();
    return wrong;
}

}  // namespace emulated

#endif
