// A processor that has every instruction, in place of kernels/processor.cpp. What EMULATED_LACKS names is missing.
#include "kernels/processor.h"

#include "faults.h"
#include "tiles.h"

namespace moecompress {

const char* missing_for_avx2() { return nullptr; }
const char* missing_for_avxvnni() { return nullptr; }
const char* missing_for_avx512vnni() { return emulated::lacks("avx512vnni") ? "the test took AVX-512 away" : nullptr; }
const char* missing_for_amx() { return missing_for_avx512vnni(); }
const char* missing_for_neon() { return nullptr; }

const char* obtain_tiles() {
    if (emulated::lacks("tiles")) return "the test refuses the tile registers";
    emulated::tiles_granted = true;
    return nullptr;
}

}  // namespace moecompress
