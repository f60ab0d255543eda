// The tables of functions each instruction-set file defines; the ones of other processors are empty files.
#pragma once

#include "kernels/kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#define MOECOMPRESS_X86 1
#else
#define MOECOMPRESS_X86 0
#endif

namespace moecompress {

extern const Kernels scalar_kernels;
#if MOECOMPRESS_X86
extern const Kernels avx2_kernels;
extern const Kernels avx512vnni_kernels;
#endif

}  // namespace moecompress
