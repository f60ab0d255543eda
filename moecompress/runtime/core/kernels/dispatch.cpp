// Which paths this processor and operating system run, and the choice among them.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include <cpuid.h>
#endif

namespace moecompress {
namespace {

constexpr int most_paths = 3;

#if MOECOMPRESS_X86
struct Leaf {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Leaf leaf(unsigned number) {
    Leaf found;
    if (!__get_cpuid_count(number, 0, &found.a, &found.b, &found.c, &found.d)) return Leaf{};
    return found;
}

// Register files the operating system saves: extended control register 0.
unsigned saved_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

bool runs_avx2() {
    const Leaf one = leaf(1), seven = leaf(7);
    constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    constexpr unsigned ymm = 0x06;
    return has(one.c, fma | osxsave | avx | f16c) && has(seven.b, avx2) && has(saved_state(), ymm);
}

bool runs_avx512vnni() {
    const Leaf seven = leaf(7);
    constexpr unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    constexpr unsigned zmm = 0xe6;
    return runs_avx2() && has(seven.b, f | dq | bw | vl) && has(seven.c, vnni) && has(saved_state(), zmm);
}
#endif

struct Supported {
    const Kernels* paths[most_paths + 1] = {};  // slowest first, ended by nullptr
    int count = 0;

    Supported() {
        paths[count++] = &scalar_kernels;
#if MOECOMPRESS_X86
        if (runs_avx2()) paths[count++] = &avx2_kernels;
        if (runs_avx512vnni()) paths[count++] = &avx512vnni_kernels;
#endif
    }
};

const Supported& supported() {
    static const Supported found;
    return found;
}

const Kernels& chosen() {
    const char* const name = std::getenv("MOECOMPRESS_ISA");
    if (name == nullptr || *name == '\0') return *supported().paths[supported().count - 1];
    try {
        return kernels_named(name);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(std::string("The environment variable MOECOMPRESS_ISA cannot be followed. ") +
                                    error.what());
    }
}

}  // namespace

const Kernels* const* supported_kernels() { return supported().paths; }

const Kernels& kernels_named(const char* name) {
    std::string known;
    for (const Kernels* const* path = supported_kernels(); *path != nullptr; ++path) {
        if (std::strcmp((*path)->name, name) == 0) return **path;
        known += known.empty() ? (*path)->name : std::string(", ") + (*path)->name;
    }
    throw std::invalid_argument("Instruction set '" + std::string(name) +
                                "' is unknown or not supported by this processor; it runs " + known + ".");
}

const Kernels& kernels() {
    static const Kernels& best = chosen();
    return best;
}

}  // namespace moecompress
