// The comparison behind `self_test`. Illegal instructions are caught too: some systems announce registers that they
// then refuse.
#include "kernels/self_test.h"

#include <setjmp.h>
#include <signal.h>

#include <cstring>
#include <memory>

#include "kernels/paths.h"

namespace moecompress {
namespace {

constexpr int64_t rows = 19, columns = 80, group_size = 64, stride = 24;  // 2 tiles, 3 blocks, 2 groups: all ragged
constexpr int64_t most_tokens = 27;                                       // every width of a shared panel, 16 to 1
constexpr int64_t count = 37;                                             // of the vectors
constexpr int64_t row_size = 101, row_count = 9, lines = 5;               // of integers, and vectors with them
constexpr int64_t most_weight_bytes = 2 * columns * tile_rows * 4;

uint32_t next(uint32_t& state) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

// Inputs, and results and workspaces of the scalar path (0) and the tested one (1).
struct Data {
    alignas(64) uint8_t weight[most_weight_bytes];
    alignas(64) float values[most_tokens * columns];
    float results[2][most_tokens * stride];
    size_t workspace_bytes = Activations::workspace_bytes(most_tokens, columns);
    std::unique_ptr<uint8_t[]> memory[2];

    Data() {
        uint32_t state = 1;
        for (float& value : values) value = (static_cast<float>(next(state)) * 0x1p-23f - 1.0f) * 10.0f;
        for (auto& each : memory) each = std::make_unique<uint8_t[]>(workspace_bytes + 64);
    }

    Activations activations(int path, int64_t tokens) {
        const auto at = reinterpret_cast<uintptr_t>(memory[path].get());
        return Activations::in(memory[path].get() + (64 - at % 64), tokens, columns, values);
    }
};

// Which results differ; `subject` is nullptr while none do. Plain data: a jump out of the self-test destroys nothing.
struct Difference {
    const char* subject = nullptr;
    int bits = 0;  // of the codes, when they are products of codes
};

// Any codes; scales and minima are ordinary numbers.
PackedMatrix affine_weight(int bits, Data& data) {
    const PackedMatrix w{Codec::affine, bits, group_size, rows, columns, data.weight};
    uint32_t state = static_cast<uint32_t>(bits);
    uint8_t* at = data.weight;
    for (int64_t tile = 0; tile < w.tiles(); ++tile)
        for (int64_t block = 0; block < w.blocks(); ++block) {
            if (block % (group_size / block_columns) == 0)
                for (int i = 0; i < 32; ++i, at += 2) {
                    const uint16_t half = static_cast<uint16_t>((next(state) & 0x83ff) | (8 + next(state) % 16) << 10);
                    std::memcpy(at, &half, 2);
                }
            for (int i = 0; i < 64 * bits; ++i) *at++ = static_cast<uint8_t>(next(state));
        }
    return w;
}

PackedMatrix dense_weight(Codec codec, Data& data) {
    const PackedMatrix w{codec, 0, 0, rows, columns, data.weight};
    const int bytes = codec == Codec::dense_bf16 ? 2 : 4;
    uint32_t state = 9;
    for (int64_t at = 0; at < w.bytes(); at += bytes) {
        const float value = static_cast<float>(next(state)) * 0x1p-23f - 1.0f;
        uint8_t stored[4];
        std::memcpy(stored, &value, 4);
        std::memcpy(data.weight + at, stored + 4 - bytes, static_cast<size_t>(bytes));
    }
    return w;
}

bool products_differ(const Kernels& path, const PackedMatrix& w, Data& data) {
    for (const int64_t tokens : {int64_t{1}, most_tokens}) {
        std::memset(data.results, 0xee, sizeof data.results);
        const Activations x = data.activations(0, tokens);
        scalar_kernels.quantize(x, 0, tokens);
        scalar_kernels.multiply(w, x, 0, w.tiles(), data.results[0], stride);
        path.multiply(w, x, 0, w.tiles(), data.results[1], stride);
        if (std::memcmp(data.results[0], data.results[1], sizeof data.results[0]) != 0) return true;
    }
    return false;
}

bool quantize_differs(const Kernels& path, Data& data) {
    scalar_kernels.quantize(data.activations(0, most_tokens), 0, most_tokens);
    path.quantize(data.activations(1, most_tokens), 0, most_tokens);
    return std::memcmp(data.activations(0, 1).high, data.activations(1, 1).high, data.workspace_bytes) != 0;
}

// Calls both paths' function on a copy of the values; says whether the results differ.
template <class Function>
bool vectors_differ(const Kernels& path, Data& data, const Function& function) {
    for (int i = 0; i < 2; ++i) {
        std::memcpy(data.results[i], data.values, count * sizeof(float));
        function(i == 0 ? scalar_kernels : path, data.results[i], data.values + count);
    }
    return std::memcmp(data.results[0], data.results[1], count * sizeof(float)) != 0;
}

// Calls both paths' function on rows of the same integers, vectors, and results that hold something already.
template <class Function>
bool rows_differ(const Kernels& path, Data& data, const Function& function) {
    for (const bool narrow : {false, true}) {
        const IntegerRows rows{data.weight, narrow, row_size};
        for (int i = 0; i < 2; ++i) {
            std::memcpy(data.results[i], data.values, sizeof data.results[i]);
            function(i == 0 ? scalar_kernels : path, rows, data.values, data.results[i]);
        }
        if (std::memcmp(data.results[0], data.results[1], sizeof data.results[0]) != 0) return true;
    }
    return false;
}

Difference compared(const Kernels& path, Data& data) {
    if (quantize_differs(path, data)) return {"quantized activations"};
    for (int bits = 1; bits <= 8; ++bits)
        if (products_differ(path, affine_weight(bits, data), data)) return {"products", bits};
    if (products_differ(path, dense_weight(Codec::dense_bf16, data), data)) return {"products of bf16 weights"};
    if (products_differ(path, dense_weight(Codec::dense_f32, data), data)) return {"products of float32 weights"};
    const auto silu = [](const Kernels& k, float* x, const float* y) { k.silu_multiply(x, y, x, count); };
    const auto exponential = [](const Kernels& k, float* x, const float*) { k.exp_shifted(x, 0.25f, count); };
    const auto dot = [](const Kernels& k, float* x, const float* y) { x[0] = k.dot(x, y, count); };
    const auto add = [](const Kernels& k, float* x, const float* y) { k.add_scaled(x, y, -0.37f, count); };
    const auto row_dots = [](const Kernels& k, const IntegerRows& rows, const float* x, float* out) {
        k.row_dots(rows, row_count, {x, row_size, lines}, {out, row_count, lines});
    };
    const auto add_rows = [](const Kernels& k, const IntegerRows& rows, const float* x, float* y) {
        k.add_rows(rows, row_count, {x, row_count, lines}, {y, row_size, lines});
    };
    if (vectors_differ(path, data, silu)) return {"gated activations"};
    if (vectors_differ(path, data, exponential)) return {"exponentials"};
    if (vectors_differ(path, data, dot)) return {"inner products"};
    if (vectors_differ(path, data, add)) return {"scaled sums"};
    if (rows_differ(path, data, row_dots)) return {"products with rows"};
    if (rows_differ(path, data, add_rows)) return {"sums of rows"};
    return {};
}

thread_local sigjmp_buf* landing = nullptr;

void on_illegal_instruction(int number) {
    if (landing != nullptr) siglongjmp(*landing, 1);
    signal(number, SIG_DFL);  // another thread's: it meets the same instruction again, and its usual end
}

// Whether the body, which must own nothing, ends without an illegal instruction.
template <class Body>
bool is_legal(const Body& body) {
    struct sigaction ours = {}, before = {};
    ours.sa_handler = on_illegal_instruction;
    sigjmp_buf place;
    landing = &place;
    sigaction(SIGILL, &ours, &before);
    const bool legal = sigsetjmp(place, 1) == 0 ? (body(), true) : false;
    sigaction(SIGILL, &before, nullptr);
    landing = nullptr;
    return legal;
}

}  // namespace

std::string self_test(const Kernels& path) {
    const auto data = std::make_unique<Data>();
    Difference found;
    if (!is_legal([&] { found = compared(path, *data); })) return "its self-test met an illegal instruction";
    if (found.subject == nullptr) return {};
    const std::string subject =
        found.bits > 0 ? "products of " + std::to_string(found.bits) + "-bit codes" : found.subject;
    return "its " + subject + " differ from the scalar path's";
}

}  // namespace moecompress
