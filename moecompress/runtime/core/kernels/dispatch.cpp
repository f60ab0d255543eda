// The table of paths and the choice among them. A path is asked what it lacks, then tested, once per process and only
// when somebody wants it.
#include "kernels/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "kernels/paths.h"
#include "kernels/processor.h"
#include "kernels/self_test.h"

namespace moecompress {
namespace {

#if MOECOMPRESS_X86
Kernels with_products(Kernels path, const char* name, decltype(Kernels::multiply) multiply) {
    path.name = name;
    path.multiply = multiply;
    return path;
}

const Kernels avxvnni_kernels = with_products(avx2_kernels, "avxvnni", multiply_avxvnni);
const Kernels amx_kernels = with_products(avx512vnni_kernels, "amx", multiply_amx);
#endif

struct Path {
    const Kernels* kernels;
    const char* (*missing)();  // nullptr: runs everywhere
    const char* (*obtain)();   // what must be asked of the operating system first, or nullptr
};

// Slowest first.
const Path paths[] = {
    {&scalar_kernels, nullptr, nullptr},
#if MOECOMPRESS_ARM
    {&neon_kernels, missing_for_neon, nullptr},
#endif
#if MOECOMPRESS_X86
    {&avx2_kernels, missing_for_avx2, nullptr},
    {&avxvnni_kernels, missing_for_avxvnni, nullptr},
    {&avx512vnni_kernels, missing_for_avx512vnni, nullptr},
    {&amx_kernels, missing_for_amx, obtain_tiles},
#endif
};
constexpr size_t path_count = sizeof paths / sizeof paths[0];

const char* missing(const Path& path) { return path.missing != nullptr ? path.missing() : nullptr; }

std::string examined(const Path& path) {
    if (path.kernels == &scalar_kernels) return {};
    if (const char* const reason = missing(path)) return reason;
    if (path.obtain != nullptr)
        if (const char* const reason = path.obtain()) return reason;
    return self_test(*path.kernels);
}

// Why a path must not be used: a clause, empty when it may.
const std::string& refusal(const Path& path) {
    static std::once_flag asked[path_count];
    static std::string answers[path_count];
    const size_t index = static_cast<size_t>(&path - paths);
    std::call_once(asked[index], [&] { answers[index] = examined(path); });
    return answers[index];
}

std::string names_of_supported() {
    std::string names;
    for (const Kernels* const* path = supported_kernels(); *path != nullptr; ++path)
        names += names.empty() ? (*path)->name : std::string(", ") + (*path)->name;
    return names;
}

const Kernels& forced(const char* name) {
    try {
        return kernels_named(name);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(std::string("The environment variable MOECOMPRESS_ISA cannot be followed. ") +
                                    error.what());
    }
}

const Kernels& chosen() {
    const char* const name = std::getenv("MOECOMPRESS_ISA");
    if (name != nullptr && *name != '\0') return forced(name);
    size_t best = path_count - 1;
    while (!refusal(paths[best]).empty()) --best;  // ends at scalar, which is never refused
    return *paths[best].kernels;
}

}  // namespace

const Kernels* const* supported_kernels() {
    struct List {
        const Kernels* paths[path_count + 1] = {};
        List() {
            size_t count = 0;
            for (const Path& path : moecompress::paths)
                if (missing(path) == nullptr) paths[count++] = path.kernels;
        }
    };
    static const List list;
    return list.paths;
}

const Kernels& kernels_named(const char* name) {
    for (const Path& path : paths) {
        if (std::strcmp(path.kernels->name, name) != 0) continue;
        if (refusal(path).empty()) return *path.kernels;
        throw std::invalid_argument("Instruction set '" + std::string(name) + "' cannot be used: " + refusal(path) +
                                    ". This machine runs " + names_of_supported() + ".");
    }
    throw std::invalid_argument("Instruction set '" + std::string(name) + "' is unknown; this machine runs " +
                                names_of_supported() + ".");
}

const Kernels& kernels() {
    static const Kernels& best = chosen();
    return best;
}

std::vector<PathReport> path_reports() {
    std::vector<PathReport> reports;
    for (const Path& path : paths)
        reports.push_back({path.kernels->name, missing(path) == nullptr, refusal(path).empty(),
                           path.kernels == &kernels(), refusal(path)});
    return reports;
}

}  // namespace moecompress
