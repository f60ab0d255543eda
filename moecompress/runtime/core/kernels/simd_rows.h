// Products of float vectors with rows of integers: the scores and the weighted sums of attention, written for any
// register of float lanes.
//
// Several vectors share the conversion of a row to floats; a single one works on several rows, or wide pieces, at once.
#pragma once

#include "kernels/layout.h"

namespace moecompress {
namespace {

template <class V>
struct RowPath {
    static constexpr int parts = static_cast<int>(tile_rows) / V::rows;
    static constexpr int together = 4;  // vectors, or rows of a single vector
    static constexpr int pieces = 8;    // registers of y that one pass over the rows fills
    static constexpr int64_t rows_ahead = 2048;  // bytes

    static V floats(const int16_t* from) { return V::from_int16(from); }
    static V floats(const int8_t* from) { return V::from_int8(from); }

    // Asks for as many bytes, a little ahead: heads are far apart, and hardware prefetchers stop at the ends of pages.
    template <class T>
    static void prefetch(const T* data, int64_t count) {
        const auto* const ahead = reinterpret_cast<const uint8_t*>(data) + rows_ahead;
        for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += 64)
            __builtin_prefetch(ahead + byte);
    }

    // Elements of the last, incomplete sixteen: lanes past the end keep their sum, whose zero may have a sign.
    template <class T>
    static void add_last(const T* row, const float* x, int64_t left, V (&sums)[parts]) {
        T integers[tile_rows] = {};
        std::memcpy(integers, row, left * sizeof(T));
        for (int part = 0; part < parts; ++part) {
            const int64_t start = part * V::rows, count = smaller_of(left - start, V::rows);
            if (count <= 0) return;
            const V longer = V::fused(V::load_part(x + start, count), floats(integers + start), sums[part]);
            sums[part] = V::first_of(longer, sums[part], count);
        }
    }

    template <bool ragged, int vectors, int rows, class T>
    static void dots(const T* data, int64_t size, const Lines<const float>& x, const Lines<float>& out) {
        V sums[vectors][rows][parts];
        for (auto& vector : sums)
            for (auto& row : vector)
                for (V& sum : row) sum = V::all(0.0f);
        int64_t i = 0;
        for (; i + tile_rows <= size; i += tile_rows)
            for (int part = 0; part < parts; ++part)
                for (int r = 0; r < rows; ++r) {
                    const V row = floats(data + r * size + i + part * V::rows);
                    for (int v = 0; v < vectors; ++v) {
                        const V lanes = V::load(x.data + v * x.stride + i + part * V::rows);
                        sums[v][r][part] = V::fused(lanes, row, sums[v][r][part]);
                    }
                }
        for (int v = 0; v < vectors && ragged; ++v)
            for (int r = 0; r < rows; ++r)
                add_last(data + r * size + i, x.data + v * x.stride + i, size - i, sums[v][r]);
        for (int v = 0; v < vectors; ++v) {
            if constexpr (rows == together)
                V::folded(sums[v], out.data + v * out.stride);
            else
                for (int r = 0; r < rows; ++r) out.data[v * out.stride + r] = V::folded(sums[v][r]);
        }
    }

    // `ragged`: the size is not a multiple of sixteen.
    template <bool ragged, class T>
    static void all_dots(const T* data, int64_t size, int64_t length, Lines<const float> x, Lines<float> out) {
        const auto next = [&](int count) {
            x.count -= count;
            x.data += count * x.stride;
            out.data += count * out.stride;
        };
        for (; x.count >= together; next(together))
            for (int64_t r = 0; r < length; ++r)
                dots<ragged, together, 1>(data + r * size, size, x, {out.data + r, out.stride, together});
        for (; x.count > 0; next(1)) {
            int64_t r = 0;
            for (; r + together <= length; r += together) {
                prefetch(data + r * size, together * size);
                dots<ragged, 1, together>(data + r * size, size, x, {out.data + r, out.stride, 1});
            }
            for (; r < length; ++r) dots<ragged, 1, 1>(data + r * size, size, x, {out.data + r, out.stride, 1});
        }
    }

    template <class T>
    static void dots_of(const T* data, int64_t size, int64_t length, const Lines<const float>& x,
                        const Lines<float>& out) {
        if (size % tile_rows == 0) return all_dots<false>(data, size, length, x, out);
        all_dots<true>(data, size, length, x, out);
    }

    // `width` registers of columns from `data` on, of every row.
    template <class T, int vectors, int width>
    static void add_columns(const T* data, int64_t size, int64_t length, const Lines<const float>& factors,
                            const Lines<float>& y) {
        V sums[vectors][width];
        for (int v = 0; v < vectors; ++v)
            for (int k = 0; k < width; ++k) sums[v][k] = V::load(y.data + v * y.stride + k * V::rows);
        for (int64_t r = 0; r < length; ++r, data += size) {
            V factor[vectors];
            for (int v = 0; v < vectors; ++v) factor[v] = V::all(factors.data[v * factors.stride + r]);
            for (int k = 0; k < width; ++k) {
                const V row = floats(data + k * V::rows);
                for (int v = 0; v < vectors; ++v) sums[v][k] = V::fused(factor[v], row, sums[v][k]);
            }
        }
        for (int v = 0; v < vectors; ++v)
            for (int k = 0; k < width; ++k) sums[v][k].store(y.data + v * y.stride + k * V::rows);
    }

    // Fewer columns than a register has lanes.
    template <class T>
    static void add_last_columns(const T* data, int64_t size, int64_t count, int64_t length, const float* factors,
                                 float* y) {
        V sum = V::load_part(y, count);
        for (int64_t r = 0; r < length; ++r, data += size) {
            T integers[V::rows] = {};
            std::memcpy(integers, data, count * sizeof(T));
            sum = V::fused(V::all(factors[r]), floats(integers), sum);
        }
        sum.store_part(y, count);
    }

    template <class T, int vectors>
    static void add_to(const T* data, int64_t size, int64_t length, const Lines<const float>& factors,
                       const Lines<float>& y) {
        constexpr int width = pieces / vectors;
        int64_t i = 0;
        for (; i + width * V::rows <= size; i += width * V::rows)
            add_columns<T, vectors, width>(data + i, size, length, factors, {y.data + i, y.stride, vectors});
        for (; i + V::rows <= size; i += V::rows)
            add_columns<T, vectors, 1>(data + i, size, length, factors, {y.data + i, y.stride, vectors});
        for (int v = 0; v < vectors && i < size; ++v)
            add_last_columns(data + i, size, size - i, length, factors.data + v * factors.stride,
                             y.data + v * y.stride + i);
    }

    template <class T>
    static void add_all(const T* data, int64_t size, int64_t length, Lines<const float> factors, Lines<float> y) {
        const auto next = [&](int count) {
            y.count -= count;
            y.data += count * y.stride;
            factors.data += count * factors.stride;
        };
        for (; y.count >= together; next(together)) add_to<T, together>(data, size, length, factors, y);
        for (; y.count > 0; next(1)) add_to<T, 1>(data, size, length, factors, y);
    }

    static void row_dots(const IntegerRows& rows, int64_t length, const Lines<const float>& x,
                         const Lines<float>& out) {
        if (rows.narrow) return dots_of(static_cast<const int8_t*>(rows.data), rows.size, length, x, out);
        dots_of(static_cast<const int16_t*>(rows.data), rows.size, length, x, out);
    }

    static void add_rows(const IntegerRows& rows, int64_t length, const Lines<const float>& factors,
                         const Lines<float>& y) {
        if (rows.narrow) return add_all(static_cast<const int8_t*>(rows.data), rows.size, length, factors, y);
        add_all(static_cast<const int16_t*>(rows.data), rows.size, length, factors, y);
    }
};

}  // namespace
}  // namespace moecompress
