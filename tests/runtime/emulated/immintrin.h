// The x86 intrinsics in portable C++, so that the kernels' own sources run on a processor without the instructions.
// SIMDe 0.8.2 provides them. Here is what it lacks and what it does differently: its fused operations round twice, and
// its masked loads and stores of 16 floats touch the lanes that the mask leaves out.
#ifndef MOECOMPRESS_EMULATED_IMMINTRIN
#define MOECOMPRESS_EMULATED_IMMINTRIN

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include "exact.h"
#include "faults.h"
#include "tiles.h"

#undef _mm256_fmadd_ps
#define _mm256_fmadd_ps(a, b, c) emulated::fused(a, b, c)
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps(a, b, c) emulated::fused(a, b, c)

namespace emulated {

// The low part of each of 16 integers.
template <class Narrow, class Register>
Register narrowed(simde__m512i integers) {
    int32_t wide[16];
    Narrow narrow[16];
    std::memcpy(wide, &integers, sizeof wide);
    for (int i = 0; i < 16; ++i) narrow[i] = static_cast<Narrow>(wide[i]);
    Register packed;
    std::memcpy(&packed, narrow, sizeof packed);
    return packed;
}

inline simde__m512i wide(simde__m128i bytes) {
    int8_t narrow[16];
    int32_t integers[16];
    std::memcpy(narrow, &bytes, sizeof narrow);
    for (int i = 0; i < 16; ++i) integers[i] = narrow[i];
    return simde_mm512_loadu_epi32(integers);
}

inline int32_t sum_of(simde__m512i integers) {
    int32_t wide[16], sum = 0;
    std::memcpy(wide, &integers, sizeof wide);
    for (const int32_t integer : wide) sum += integer;
    return sum;
}

inline simde__m512 load_lanes(simde__mmask16 mask, const void* from) {
    float lanes[16] = {};
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const char*>(from) + i * sizeof(float), sizeof(float));
    return simde_mm512_loadu_ps(lanes);
}

inline void store_lanes(void* to, simde__mmask16 mask, simde__m512 value) {
    float lanes[16];
    std::memcpy(lanes, &value, sizeof lanes);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(static_cast<char*>(to) + i * sizeof(float), lanes + i, sizeof(float));
}

inline simde__m512i quad_dots(simde__m512i sums, simde__m512i codes, simde__m512i integers) {
    if (wrong_dots()) sums = simde_mm512_add_epi32(sums, simde_mm512_set1_epi32(1));
    return simde_mm512_dpbusd_epi32(sums, codes, integers);
}

}  // namespace emulated

#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32(sums, codes, integers) emulated::quad_dots(sums, codes, integers)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, from) emulated::load_lanes(mask, from)
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(to, mask, value) emulated::store_lanes(to, mask, value)

#define _mm256_dpbusd_avx_epi32(sums, codes, integers) simde_mm256_dpbusd_epi32(sums, codes, integers)
#define _mm512_cvtepi32_epi8(a) (emulated::narrowed<int8_t, simde__m128i>(a))
#define _mm512_cvtepi32_epi16(a) (emulated::narrowed<int16_t, simde__m256i>(a))
#define _mm512_cvtepi8_epi32(a) emulated::wide(a)
#define _mm512_reduce_add_epi32(a) emulated::sum_of(a)

#endif
