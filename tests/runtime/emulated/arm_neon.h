// The ARM intrinsics in portable C++, for neon.cpp on another processor; see immintrin.h.
#ifndef MOECOMPRESS_EMULATED_ARM_NEON
#define MOECOMPRESS_EMULATED_ARM_NEON

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>

#include "exact.h"

#undef vfmaq_f32
#define vfmaq_f32(c, a, b) emulated::fused(a, b, c)

#endif
