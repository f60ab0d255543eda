// Test program of the instruction-set paths.
//   compare PATH SUBJECT   compares the path with the scalar one, bit for bit: prints how many results are equal and
//   ends
//                          with 0, or prints the first case that is not and ends with 1
//   compare report         one line for each path: name, supported, passed, chosen, refusal
//   compare mistakes       what the self-test says of paths with one mistake each
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "kernels/dispatch.h"
#include "kernels/paths.h"
#include "matrices.h"
#include "mistakes.h"

namespace moecompress {
namespace {

const Kernels* const paths[] = {
#if MOECOMPRESS_X86
    &avx2_kernels,
    &avx512vnni_kernels,
#endif
};

int64_t compared = 0;

// Ends the program when two results differ; `name` and the numbers say which case it is.
void require_equal(const void* actual, const void* expected, size_t bytes, const char* name, int64_t a, int64_t b,
                   int64_t c = 0, int64_t d = 0) {
    compared += static_cast<int64_t>(bytes / sizeof(float));
    if (std::memcmp(actual, expected, bytes) == 0) return;
    size_t at = 0;
    while (static_cast<const char*>(actual)[at] == static_cast<const char*>(expected)[at]) ++at;
    std::printf("%s differs at element %zu of case %lld %lld %lld %lld\n", name, at / sizeof(float),
                static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c),
                static_cast<long long>(d));
    std::exit(1);
}

// Products of tiles [first, last) with every element of y, also those that must stay as they are.
void compare_product(const Kernels& path, const Weight& w, const Inputs& inputs, int64_t first, int64_t last) {
    const int64_t stride = w.matrix.rows + 3, tokens = inputs.x.tokens;
    std::vector<float> actual(static_cast<size_t>(tokens * stride), -7.0f), expected = actual;
    path.multiply(w.matrix, inputs.x, first, last, actual.data(), stride);
    scalar_kernels.multiply(w.matrix, inputs.x, first, last, expected.data(), stride);
    require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "multiply", w.matrix.rows,
                  w.matrix.columns, tokens, w.matrix.group_size);
}

void compare_products(const Kernels& path, const Weight& w, int64_t tokens, Numbers& numbers) {
    Inputs inputs(tokens, w.matrix.columns, numbers);
    if (w.matrix.codec == Codec::affine) scalar_kernels.quantize(inputs.x, 0, tokens);
    const int64_t tiles = w.matrix.tiles();
    compare_product(path, w, inputs, 0, tiles);
    if (tiles > 1) compare_product(path, w, inputs, 1, 2);
}

constexpr int64_t shapes[][2] = {{16, 32}, {5, 130}, {33, 256}, {17, 97}, {64, 64}, {1, 1}};

// Every number of tokens up to 40, and ragged shapes; the group sizes take turns, which begin differently for each
// bits.
void compare_affine(const Kernels& path, int bits) {
    constexpr int group_sizes[] = {32, 64, 128};
    Numbers numbers(static_cast<uint64_t>(bits));
    int turn = bits;
    const auto compare = [&](int64_t rows, int64_t columns, int64_t tokens) {
        const bool largest = turn % 7 == 0;
        const Weight w = Weight::affine(bits, group_sizes[turn++ % 3], rows, columns, largest, numbers);
        compare_products(path, w, tokens, numbers);
    };
    for (int64_t tokens = 1; tokens <= 40; ++tokens) compare(40, 100, tokens);
    for (const auto& shape : shapes)
        for (const int64_t tokens : {1, 2, 9, 17, 67}) compare(shape[0], shape[1], tokens);
}

void compare_dense(const Kernels& path) {
    Numbers numbers(9);
    for (const Codec codec : {Codec::dense_bf16, Codec::dense_f32})
        for (const auto& shape : shapes) {
            const Weight w = Weight::dense(codec, shape[0], shape[1], numbers);
            for (int64_t tokens = 1; tokens <= 10; ++tokens) compare_products(path, w, tokens, numbers);
        }
}

void compare_quantize(const Kernels& path) {
    Numbers numbers(10);
    for (int64_t columns = 1; columns <= 100; ++columns) {
        const int64_t tokens = 16;
        const Inputs inputs(tokens, columns, numbers);
        const auto bytes = static_cast<int64_t>(Activations::workspace_bytes(tokens, columns));
        const auto memory = lines_of(bytes);
        std::memset(memory.get(), 0, static_cast<size_t>(bytes));
        path.quantize(inputs.x, 0, tokens);
        const Activations expected = Activations::in(memory.get(), tokens, columns, inputs.values.data());
        scalar_kernels.quantize(expected, 0, tokens - 1);
        scalar_kernels.quantize(expected, tokens - 1, tokens);
        require_equal(inputs.memory.get(), memory.get(), static_cast<size_t>(bytes), "quantize", tokens, columns);
    }
}

// Calls compare(x, y) for vectors of every short length and a long one, with special numbers in the long one.
template <class Compare>
void for_vectors(Compare compare) {
    Numbers numbers(11);
    for (int64_t length = 0; length <= 100; ++length) compare(numbers.vector(length), numbers.vector(length));
    std::vector<float> x = special_numbers();
    while (x.size() < 20000) x.push_back(numbers.between(-110, 95));
    compare(x, numbers.vector(static_cast<int64_t>(x.size())));
    compare(numbers.vector(5003), numbers.vector(5003));
}

void compare_silu_multiply(const Kernels& path) {
    for_vectors([&](const std::vector<float>& gate, const std::vector<float>& up) {
        const auto count = static_cast<int64_t>(gate.size());
        std::vector<float> actual(gate.size() + 1, -7.0f), expected = actual;
        path.silu_multiply(gate.data(), up.data(), actual.data(), count);
        scalar_kernels.silu_multiply(gate.data(), up.data(), expected.data(), count);
        require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "silu_multiply", count, 0);
    });
}

void compare_exp_shifted(const Kernels& path) {
    for_vectors([&](const std::vector<float>& x, const std::vector<float>&) {
        std::vector<float> actual(x), expected(x);
        const auto count = static_cast<int64_t>(x.size());
        path.exp_shifted(actual.data(), 0.25f, count);
        scalar_kernels.exp_shifted(expected.data(), 0.25f, count);
        require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "exp_shifted", count, 0);
    });
}

void compare_dot(const Kernels& path) {
    for_vectors([&](const std::vector<float>& a, const std::vector<float>& b) {
        const auto count = static_cast<int64_t>(a.size());
        const float actual = path.dot(a.data(), b.data(), count);
        const float expected = scalar_kernels.dot(a.data(), b.data(), count);
        require_equal(&actual, &expected, sizeof actual, "dot", count, 0);
    });
    const std::vector<float> a(17, -1e-30f), b(17, 1e-30f);  // a sum that rounds to minus zero
    const float actual = path.dot(a.data(), b.data(), 17), expected = -0.0f;
    require_equal(&actual, &expected, sizeof actual, "dot", 17, 1);
}

void compare_add_scaled(const Kernels& path) {
    for_vectors([&](const std::vector<float>& x, const std::vector<float>& y) {
        std::vector<float> actual(y), expected(y);
        const auto count = static_cast<int64_t>(x.size());
        path.add_scaled(actual.data(), x.data(), -0.37f, count);
        scalar_kernels.add_scaled(expected.data(), x.data(), -0.37f, count);
        require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "add_scaled", count, 0);
    });
}

// Calls compare(rows, length, vectors) for rows of every short size and some long ones.
template <class Compare>
void for_rows(Compare compare) {
    Numbers numbers(12);
    std::vector<int64_t> sizes = {100, 128, 192, 256};
    for (int64_t size = 1; size <= 50; ++size) sizes.push_back(size);
    for (const int64_t size : sizes)
        for (const int64_t length : {1, 2, 3, 7, 32}) {
            std::vector<uint8_t> bytes(static_cast<size_t>(2 * size * length));
            for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(numbers.bits());
            for (const bool narrow : {false, true})
                for (const int64_t count : {1, 2, 4, 5, 9})
                    compare(IntegerRows{bytes.data(), narrow, size}, length, count);
        }
}

void compare_row_dots(const Kernels& path) {
    Numbers numbers(13);
    for_rows([&](const IntegerRows& rows, int64_t length, int64_t count) {
        const int64_t stride = rows.size + 3;
        const std::vector<float> x = numbers.vector(stride * count);
        std::vector<float> actual(static_cast<size_t>(count * (length + 1)), -7.0f), expected = actual;
        path.row_dots(rows, length, {x.data(), stride, count}, {actual.data(), length + 1, count});
        scalar_kernels.row_dots(rows, length, {x.data(), stride, count}, {expected.data(), length + 1, count});
        require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "row_dots", rows.size, length,
                      count, rows.narrow);
    });
}

void compare_add_rows(const Kernels& path) {
    Numbers numbers(14);
    for_rows([&](const IntegerRows& rows, int64_t length, int64_t count) {
        const std::vector<float> factors = numbers.vector((length + 1) * count);
        std::vector<float> actual = numbers.vector((rows.size + 3) * count), expected = actual;
        const Lines<const float> lines{factors.data(), length + 1, count};
        path.add_rows(rows, length, lines, {actual.data(), rows.size + 3, count});
        scalar_kernels.add_rows(rows, length, lines, {expected.data(), rows.size + 3, count});
        require_equal(actual.data(), expected.data(), actual.size() * sizeof(float), "add_rows", rows.size, length,
                      count, rows.narrow);
    });
}

bool compare(const Kernels& path, const std::string& subject) {
    if (subject.rfind("affine", 0) == 0)
        compare_affine(path, subject.back() - '0');
    else if (subject == "dense")
        compare_dense(path);
    else if (subject == "quantize")
        compare_quantize(path);
    else if (subject == "silu_multiply")
        compare_silu_multiply(path);
    else if (subject == "exp_shifted")
        compare_exp_shifted(path);
    else if (subject == "dot")
        compare_dot(path);
    else if (subject == "add_scaled")
        compare_add_scaled(path);
    else if (subject == "row_dots")
        compare_row_dots(path);
    else if (subject == "add_rows")
        compare_add_rows(path);
    else
        return false;
    return true;
}

void print_reports() {
    for (const PathReport& path : path_reports())
        std::printf("%s,%d,%d,%d,%s\n", path.name, path.supported, path.passed, path.chosen, path.refusal.c_str());
}

int run(int count, char** arguments) {
    if (count == 2 && std::strcmp(arguments[1], "report") == 0) return print_reports(), 0;
    if (count == 2 && std::strcmp(arguments[1], "mistakes") == 0) return print_mistakes(), 0;
    if (count != 3 || !compare(kernels_named(arguments[1]), arguments[2])) {
        std::puts("The arguments are PATH SUBJECT, or report, or mistakes.");
        return 2;
    }
    std::printf("%lld equal\n", static_cast<long long>(compared));
    return 0;
}

}  // namespace
}  // namespace moecompress

int main(int count, char** arguments) {
    try {
        return moecompress::run(count, arguments);
    } catch (const std::exception& error) {
        std::puts(error.what());
        return 2;
    }
}
