// The kernels as plain functions on numpy arrays, for tests and measurements; the engine calls them directly.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "forward/bandwidth.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/threads.h"

namespace nb = nanobind;

namespace moecompress {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Result = nb::ndarray<nb::numpy, T>;

// A new numpy array that owns its memory.
template <class T>
Result<T> new_array(const std::vector<size_t>& shape) {
    size_t count = 1;
    for (const size_t side : shape) count *= side;
    T* const data = new T[count]();
    nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
    return Result<T>(data, shape.size(), shape.data(), owner);
}

Codec codec_named(const std::string& name) {
    if (name == "dense_bf16") return Codec::dense_bf16;
    if (name == "dense_f32") return Codec::dense_f32;
    if (name == "affine") return Codec::affine;
    throw std::invalid_argument("Codec '" + name +
                                "' is unknown to the kernels; known are dense_bf16, dense_f32, affine.");
}

PackedMatrix matrix(const std::string& codec, int bits, int group_size, int64_t rows, int64_t columns,
                    const Bytes& data) {
    PackedMatrix w{codec_named(codec), bits, group_size, rows, columns, data.data()};
    w.check();
    if (static_cast<int64_t>(data.size()) != w.bytes())
        throw std::invalid_argument("A packed matrix of shape [" + std::to_string(rows) + ", " +
                                    std::to_string(columns) + "] takes " + std::to_string(w.bytes()) + " bytes, but " +
                                    std::to_string(data.size()) + " were given.");
    return w;
}

// Quantised activations that own their workspace.
class Prepared {
public:
    Prepared(const Matrix& x, const Kernels& path)
        : memory_(static_cast<uint8_t*>(std::aligned_alloc(64, bytes_of(x)))) {
        if (memory_ == nullptr) throw std::bad_alloc();
        activations = Activations::in(memory_, tokens_of(x), static_cast<int64_t>(x.shape(1)), x.data());
        path.quantize(activations, 0, activations.tokens);
    }
    ~Prepared() { std::free(memory_); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;

    Activations activations;

private:
    static int64_t tokens_of(const Matrix& x) { return static_cast<int64_t>(x.shape(0)); }
    static size_t bytes_of(const Matrix& x) {
        if (x.shape(0) == 0 || x.shape(1) == 0)
            throw std::invalid_argument("Activations must have at least one token and one column.");
        return Activations::workspace_bytes(tokens_of(x), static_cast<int64_t>(x.shape(1)));
    }
    uint8_t* memory_;
};

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (const Kernels* const* path = supported_kernels(); *path != nullptr; ++path) names.emplace_back((*path)->name);
    return names;
}

nb::list isa_report() {
    nb::list rows;
    for (const PathReport& path : path_reports()) {
        nb::dict row;
        row["name"] = path.name;
        row["supported"] = path.supported;
        row["passed"] = path.passed;
        row["chosen"] = path.chosen;
        row["refusal"] = path.refusal;
        rows.append(row);
    }
    return rows;
}

const Kernels& path_named(const std::string& isa) { return isa.empty() ? kernels() : kernels_named(isa.c_str()); }

Result<float> matmul(const std::string& codec, int bits, int group_size, int64_t rows, int64_t columns,
                     const Bytes& packed, const Matrix& x, const std::string& isa, int threads) {
    const PackedMatrix w = matrix(codec, bits, group_size, rows, columns, packed);
    if (static_cast<int64_t>(x.shape(1)) != columns)
        throw std::invalid_argument("Activations of " + std::to_string(x.shape(1)) +
                                    " columns do not fit a matrix of " + std::to_string(columns) + " columns.");
    const Kernels& path = path_named(isa);
    auto y = new_array<float>({x.shape(0), static_cast<size_t>(rows)});
    const nb::gil_scoped_release release;
    const Prepared prepared(x, path);
    ThreadPool pool(threads);
    pool.run(w.tiles(),
             [&](int64_t first, int64_t last) { path.multiply(w, prepared.activations, first, last, y.data(), rows); });
    return y;
}

Result<float> dequantized_row(const std::string& codec, int bits, int group_size, int64_t rows, int64_t columns,
                              const Bytes& packed, int64_t row) {
    const PackedMatrix w = matrix(codec, bits, group_size, rows, columns, packed);
    if (row < 0 || row >= rows)
        throw std::invalid_argument("Row " + std::to_string(row) + " does not exist; the matrix has rows 0 to " +
                                    std::to_string(rows - 1) + ".");
    auto out = new_array<float>({static_cast<size_t>(columns)});
    dequantize_row(w, row, out.data());
    return out;
}

nb::tuple quantize_activations(const Matrix& x, const std::string& isa) {
    const Prepared prepared(x, path_named(isa));
    const Activations& a = prepared.activations;
    const size_t tokens = x.shape(0), blocks = static_cast<size_t>(a.blocks());
    auto high = new_array<int8_t>({tokens, blocks * block_columns}),
         low = new_array<int8_t>({tokens, blocks * block_columns});
    auto scale = new_array<float>({tokens, blocks});
    auto sum = new_array<int32_t>({tokens, blocks});
    for (size_t token = 0; token < tokens; ++token)
        for (size_t block = 0; block < blocks; ++block) {
            const size_t from = size_t(a.place(int64_t(block), int64_t(token))), to = token * blocks + block;
            std::copy_n(a.high + from * block_columns, block_columns, high.data() + to * block_columns);
            std::copy_n(a.low + from * block_columns, block_columns, low.data() + to * block_columns);
            scale.data()[to] = a.scale[from];
            sum.data()[to] = a.sum[from];
        }
    return nb::make_tuple(high, low, scale, sum);
}

void require_equal_length(const Vector& a, const Vector& b) {
    if (a.size() != b.size())
        throw std::invalid_argument("Vectors of " + std::to_string(a.size()) + " and " + std::to_string(b.size()) +
                                    " elements must have the same length.");
}

Result<float> silu_multiply(const Vector& gate, const Vector& up, const std::string& isa) {
    require_equal_length(gate, up);
    auto out = new_array<float>({gate.size()});
    path_named(isa).silu_multiply(gate.data(), up.data(), out.data(), static_cast<int64_t>(gate.size()));
    return out;
}

Result<float> exp_shifted(const Vector& x, float shift, const std::string& isa) {
    auto out = new_array<float>({x.size()});
    for (size_t i = 0; i < x.size(); ++i) out.data()[i] = x.data()[i];
    path_named(isa).exp_shifted(out.data(), shift, static_cast<int64_t>(x.size()));
    return out;
}

float dot(const Vector& a, const Vector& b, const std::string& isa) {
    require_equal_length(a, b);
    return path_named(isa).dot(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

Result<float> add_scaled(const Vector& y, const Vector& x, float factor, const std::string& isa) {
    require_equal_length(y, x);
    auto out = new_array<float>({y.size()});
    for (size_t i = 0; i < y.size(); ++i) out.data()[i] = y.data()[i];
    path_named(isa).add_scaled(out.data(), x.data(), factor, static_cast<int64_t>(x.size()));
    return out;
}

using Rows16 = nb::ndarray<const int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows8 = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class Rows>
IntegerRows integer_rows(const Rows& rows) {
    return {rows.data(), sizeof(typename Rows::Scalar) == 1, static_cast<int64_t>(rows.shape(1))};
}

void require_shape(const Matrix& x, size_t rows, size_t columns) {
    if (x.shape(0) != rows || x.shape(1) != columns)
        throw std::invalid_argument("A matrix of shape [" + std::to_string(x.shape(0)) + ", " +
                                    std::to_string(x.shape(1)) + "] must have the shape [" + std::to_string(rows) +
                                    ", " + std::to_string(columns) + "].");
}

template <class Rows>
Result<float> row_dots(const Rows& rows, const Matrix& x, const std::string& isa) {
    require_shape(x, x.shape(0), rows.shape(1));
    const auto lines = static_cast<int64_t>(x.shape(0)), length = static_cast<int64_t>(rows.shape(0));
    auto out = new_array<float>({x.shape(0), rows.shape(0)});
    path_named(isa).row_dots(integer_rows(rows), length, {x.data(), static_cast<int64_t>(x.shape(1)), lines},
                             {out.data(), length, lines});
    return out;
}

template <class Rows>
Result<float> add_rows(const Rows& rows, const Matrix& factors, const Matrix& y, const std::string& isa) {
    require_shape(factors, y.shape(0), rows.shape(0));
    require_shape(y, y.shape(0), rows.shape(1));
    const auto lines = static_cast<int64_t>(y.shape(0)), length = static_cast<int64_t>(rows.shape(0));
    auto out = new_array<float>({y.shape(0), y.shape(1)});
    std::copy_n(y.data(), y.size(), out.data());
    path_named(isa).add_rows(integer_rows(rows), length, {factors.data(), length, lines},
                             {out.data(), static_cast<int64_t>(y.shape(1)), lines});
    return out;
}

template <class Rows>
void bind_rows(nb::module_& m) {
    m.def("row_dots", &row_dots<Rows>, nb::arg("rows").noconvert(), nb::arg("x"), nb::arg("isa") = "",
          "Inner products of x [v, n] with int16 or int8 rows [r, n] in the order of `dot`: float32 [v, r].");
    m.def("add_rows", &add_rows<Rows>, nb::arg("rows").noconvert(), nb::arg("factors"), nb::arg("y"),
          nb::arg("isa") = "", "y [v, n] plus factors [v, r] times int16 or int8 rows [r, n], row after row.");
}

// Counts how often each of `items` is visited in `rounds` jobs; an item equal to `fail_at` throws.
Result<int64_t> visits(int threads, int64_t items, int rounds, int64_t fail_at) {
    if (items < 0 || items > 1 << 20)
        throw std::invalid_argument("Visits of 0 to 2^20 items can be counted, not of " + std::to_string(items) + ".");
    auto counts = new_array<int64_t>({static_cast<size_t>(items)});
    const nb::gil_scoped_release release;
    ThreadPool pool(threads);
    for (int round = 0; round < rounds; ++round)
        pool.run(items, [&](int64_t first, int64_t last) {
            for (int64_t item = first; item < last; ++item) {
                if (item == fail_at) throw std::invalid_argument("Item " + std::to_string(item) + " was told to fail.");
                ++counts.data()[item];
            }
        });
    return counts;
}

}  // namespace
}  // namespace moecompress

void bind_kernels(nb::module_& m) {
    using namespace moecompress;
    m.def("isa_names", &isa_names, "Names of the instruction-set paths this processor runs, slowest first.");
    m.def(
        "isa_report", &isa_report,
        "One dictionary for each instruction-set path of this build, slowest first: name, supported (by the processor "
        "and the operating system), passed (its self-test), chosen, refusal (why it is not used, or empty).");
    m.def(
        "isa_name", [] { return std::string(kernels().name); },
        "The path in use: the best one, or the one named by MOECOMPRESS_ISA. Raises ValueError for an unknown name.");
    m.def("matmul", &matmul, nb::arg("codec"), nb::arg("bits"), nb::arg("group_size"), nb::arg("rows"),
          nb::arg("columns"), nb::arg("packed"), nb::arg("x"), nb::arg("isa") = "", nb::arg("threads") = 1,
          "x [tokens, columns] times a packed [rows, columns] matrix: float32 [tokens, rows]. Codec: dense_bf16, "
          "dense_f32 or affine (bits and group_size count only there).");
    m.def("dequantize_row", &dequantized_row, nb::arg("codec"), nb::arg("bits"), nb::arg("group_size"), nb::arg("rows"),
          nb::arg("columns"), nb::arg("packed"), nb::arg("row"), "One row of a packed matrix: float32 [columns].");
    m.def(
        "quantize_activations", &quantize_activations, nb::arg("x"), nb::arg("isa") = "",
        "(high, low) int8 [tokens, blocks * 32], scale float32 and sum int32 [tokens, blocks] of x [tokens, columns].");
    m.def("silu_multiply", &silu_multiply, nb::arg("gate"), nb::arg("up"), nb::arg("isa") = "", "silu(gate) * up.");
    m.def("exp_shifted", &exp_shifted, nb::arg("x"), nb::arg("shift") = 0.0f, nb::arg("isa") = "", "exp(x - shift).");
    m.def("dot", &dot, nb::arg("a"), nb::arg("b"), nb::arg("isa") = "", "Inner product in the fixed order of 16 sums.");
    m.def("add_scaled", &add_scaled, nb::arg("y"), nb::arg("x"), nb::arg("factor"), nb::arg("isa") = "",
          "y + factor * x, each element rounded once.");
    bind_rows<Rows16>(m);
    bind_rows<Rows8>(m);
    m.def("read_speeds", &read_speeds, nb::arg("bytes"), nb::arg("threads") = 1, nb::arg("passes") = 5,
          nb::call_guard<nb::gil_scoped_release>(),
          "Bytes per second of each of `passes` readings of `bytes` of memory, split over threads.");
    m.def("thread_pool_visits", &visits, nb::arg("threads"), nb::arg("items"), nb::arg("rounds") = 1,
          nb::arg("fail_at") = -1,
          "How often a thread pool visits each item in `rounds` jobs; raises ValueError from item `fail_at`.");
}
