// What each instruction-set file defines; the ones of other processors are empty files.
#pragma once

#include "kernels/kernels.h"

// Tests set both, to build the paths of all processors together.
#ifndef MOECOMPRESS_X86
#if defined(__x86_64__)
#define MOECOMPRESS_X86 1
#else
#define MOECOMPRESS_X86 0
#endif
#endif
#ifndef MOECOMPRESS_ARM
#if defined(__aarch64__)
#define MOECOMPRESS_ARM 1
#else
#define MOECOMPRESS_ARM 0
#endif
#endif

namespace moecompress {

extern const Kernels scalar_kernels;
#if MOECOMPRESS_X86
extern const Kernels avx2_kernels;
extern const Kernels avx512vnni_kernels;

// Paths that differ from one of these in their products alone.
void multiply_avxvnni(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                      int64_t y_stride);
void multiply_amx(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                  int64_t y_stride);
#endif
#if MOECOMPRESS_ARM
extern const Kernels neon_kernels;
#endif

}  // namespace moecompress
