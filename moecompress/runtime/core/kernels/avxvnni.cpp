// AVX-VNNI: vpdpbusd on 256-bit registers, for processors without AVX-512. All but the products of codes is the AVX2
// path's. Compiled with its own flags: nothing here may be an inline function shared with other files.
#include "kernels/paths.h"

#if MOECOMPRESS_X86
#include "kernels/bytes8.h"
#include "kernels/simd_affine.h"
#include "kernels/simd_bytes.h"

namespace moecompress {
namespace {

struct VnniBytes8 : Bytes8 {
    using Sums = __m256i;
    static constexpr int offset = 0;
    static constexpr int panel_tokens = 2;

    static Sums zero() { return _mm256_setzero_si256(); }
    static __m256i four(const int8_t* from) { return every_lane(from); }
    static Sums dot(Sums sums, Bytes8 codes, __m256i four) { return _mm256_dpbusd_avx_epi32(sums, codes.value, four); }
    static Floats8 joined(Sums upper, Sums lower, int32_t) {
        return {_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(upper, 8), lower))};
    }
};

}  // namespace

void multiply_avxvnni(const PackedMatrix& w, const Activations& x, int64_t first_tile, int64_t last_tile, float* y,
                      int64_t y_stride) {
    if (w.codec != Codec::affine) return avx2_kernels.multiply(w, x, first_tile, last_tile, y, y_stride);
    AffinePath<Floats8, ByteBlocks<Floats8, VnniBytes8>>::multiply(w, x, first_tile, last_tile, y, y_stride);
}

}  // namespace moecompress
#endif
