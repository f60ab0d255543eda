// A processor that has every instruction, in place of kernels/processor.cpp. What EMULATED_LACKS names is missing.
#include "kernels/processor.h"

#include "faults.h"

namespace moecompress {

const char* missing_for_avx2() { return nullptr; }
const char* missing_for_avx512vnni() { return emulated::lacks("avx512vnni") ? "the test took AVX-512 away" : nullptr; }

}  // namespace moecompress
