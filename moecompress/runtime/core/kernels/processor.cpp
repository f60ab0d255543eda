// cpuid, the register files the operating system saves, and the one it hands out on request.
#include "kernels/processor.h"

#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if MOECOMPRESS_ARM
#include <sys/auxv.h>
#endif

namespace moecompress {
namespace {

#if MOECOMPRESS_X86
struct Leaf {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Leaf leaf(unsigned number, unsigned part = 0) {
    Leaf found;
    if (!__get_cpuid_count(number, part, &found.a, &found.b, &found.c, &found.d)) return Leaf{};
    return found;
}

bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

// Whether the operating system saves these register files: bits of extended control register 0.
bool saves(unsigned files) {
    constexpr unsigned osxsave = 1u << 27;
    if (!has(leaf(1).c, osxsave)) return false;
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return has(low, files);
}

constexpr unsigned ymm_files = 0x06, zmm_files = 0xe6, tile_files = 0x60000;
constexpr int tile_data = 18;

// Linux's arch_prctl for register files that a process must ask for.
constexpr int get_supported_files = 0x1021, request_file = 0x1023;
#endif

}  // namespace

#if MOECOMPRESS_X86
const char* missing_for_avx2() {
    constexpr unsigned fma = 1u << 12, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    if (!has(leaf(1).c, fma | avx | f16c) || !has(leaf(7).b, avx2))
        return "the processor has no AVX2 with FMA and F16C";
    return saves(ymm_files) ? nullptr : "the operating system does not save 256-bit registers";
}

const char* missing_for_avxvnni() {
    constexpr unsigned avx_vnni = 1u << 4;
    if (const char* const missing = missing_for_avx2()) return missing;
    return has(leaf(7, 1).a, avx_vnni) ? nullptr : "the processor has no AVX-VNNI";
}

const char* missing_for_avx512vnni() {
    constexpr unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    if (const char* const missing = missing_for_avx2()) return missing;
    if (!has(leaf(7).b, f | dq | bw | vl)) return "the processor has no AVX-512 (F, DQ, BW, VL)";
    if (!has(leaf(7).c, vnni)) return "the processor has no AVX-512 VNNI";
    return saves(zmm_files) ? nullptr : "the operating system does not save 512-bit registers";
}

const char* missing_for_amx() {
    constexpr unsigned tile = 1u << 24, int8 = 1u << 25;
    if (const char* const missing = missing_for_avx512vnni()) return missing;
    if (!has(leaf(7).d, tile | int8)) return "the processor has no AMX-INT8";
    unsigned long offered = 0;
    const bool known = syscall(SYS_arch_prctl, get_supported_files, &offered) == 0;
    if (!saves(tile_files) || !known || (offered >> tile_data & 1) == 0)
        return "the operating system does not offer tile registers";
    return nullptr;
}

const char* obtain_tiles() {
    if (syscall(SYS_arch_prctl, request_file, tile_data) == 0) return nullptr;
    return "the operating system refuses the tile registers";
}
#endif

#if MOECOMPRESS_ARM
const char* missing_for_neon() {
    constexpr unsigned long dot_product = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & dot_product ? nullptr : "the processor has no dot products of bytes (ASIMDDP)";
}
#endif

}  // namespace moecompress
