#include "forward/bandwidth.h"

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/threads.h"
#include "store/region.h"

namespace moecompress {

namespace {

constexpr int64_t line_words = 8;

// Sum of the 64-bit words of lines [first, last).
uint64_t sum_lines(const uint64_t* words, int64_t first, int64_t last) {
    uint64_t sums[line_words] = {};
    for (const uint64_t* line = words + first * line_words; line < words + last * line_words; line += line_words) {
        for (int64_t i = 0; i < line_words; ++i) sums[i] += line[i];
    }
    uint64_t total = 0;
    for (const uint64_t sum : sums) total += sum;
    return total;
}

}  // namespace

std::vector<double> read_speeds(int64_t bytes, int threads, int passes) {
    if (bytes < 1 << 20 || passes < 1 || passes > 1000)
        throw std::invalid_argument("Reading speed needs at least 1 MiB and 1 to 1000 passes, not " +
                                    std::to_string(bytes) + " bytes and " + std::to_string(passes) + " passes.");
    const int64_t lines = bytes / 64;
    const Region region(uint64_t(lines) * 64, true);
    std::memset(region.data(), 1, size_t(lines) * 64);
    const auto* const words = reinterpret_cast<const uint64_t*>(region.data());
    ThreadPool pool(threads);
    std::vector<double> speeds;
    for (int pass = 0; pass < passes; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        pool.run(lines, [&](int64_t first, int64_t last) {
            volatile uint64_t kept = sum_lines(words, first, last);
            (void)kept;
        });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        speeds.push_back(double(lines) * 64 / seconds.count());
    }
    return speeds;
}

}  // namespace moecompress
