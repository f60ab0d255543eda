// Every instruction-set path of this build and what speaks for or against it here.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace moecompress {

struct PathReport {
    const char* name;
    bool supported;       // by the processor and the operating system
    bool passed;          // the self-test; false when it could not be run
    bool chosen;          // the one kernels() gives
    std::string refusal;  // a clause that says why it is not used, empty when it may be
};

// Slowest first. Runs the self-test of every supported path, and throws what kernels() throws.
std::vector<PathReport> path_reports();

}  // namespace moecompress
