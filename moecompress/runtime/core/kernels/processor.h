// What this processor and its operating system offer to the instruction-set paths.
//
// Each question is answered with nullptr, or with a clause that says what is missing: "the processor has no AVX2".
#pragma once

namespace moecompress {

const char* missing_for_avx2();
const char* missing_for_avxvnni();
const char* missing_for_avx512vnni();
const char* missing_for_amx();
const char* missing_for_neon();

// Asks the operating system for the tile registers; every thread of the process may then use them.
const char* obtain_tiles();

}  // namespace moecompress
