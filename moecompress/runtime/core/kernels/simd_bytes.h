// Blocks of AffinePath for processors that multiply quads of bytes in one instruction.
//
// An instruction-set file gives `Bytes`: a register of V::rows quads of bytes, one quad for each row.
// * load(from), store(to), moved<right>(): every byte shifted right (left when negative); bits of its neighbours may
//   come in;
// * masked<mask>(a): a & mask in every byte; merged<mask>(a, b): a | (b & mask);
// * `offset`: the byte dot products multiply codes - offset, and with_sign(codes) is that difference. 0 where they take
//   unsigned codes, 128 where they take signed ones;
// * `Sums`, a register of V::rows 32-bit integers; zero(); four(from): four activations in every lane;
//   dot(sums, codes, four): sums + the inner product of each quad; joined(upper, lower, more) -> V: 256 * upper + lower
//   + more, converted to float;
// * panel_tokens: tokens whose sums fit the registers.
#pragma once

#include <type_traits>

#include "kernels/layout.h"

namespace moecompress {
namespace {

// body(0), ..., body(count - 1), each index a constant.
template <int count, int first = 0, class Body>
inline void unrolled(const Body& body) {
    if constexpr (first < count) {
        body(std::integral_constant<int, first>());
        unrolled<count, first + 1>(body);
    }
}

// One quad's codes, from the planes of their upper `left` bits, which begin at bit `shift`.
template <class Bytes, int left, int shift, int quad>
inline Bytes quad_bits(const uint8_t* plane) {
    constexpr int width = plane_width(left), mask = ((1 << width) - 1) << shift;
    const Bytes packed = Bytes::load(plane + quad % width * vector_bytes);
    if constexpr (width == 8) {
        return packed;
    } else {
        const Bytes part = packed.template moved<quad / width * width - shift>();
        if constexpr (width == left)
            return Bytes::template masked<mask>(part);
        else
            return Bytes::template merged<mask>(
                quad_bits<Bytes, left - width, shift + width, quad>(plane + width * vector_bytes), part);
    }
}

template <class V, class Bytes>
struct ByteBlocks {
    static constexpr int parts = static_cast<int>(tile_rows) / V::rows;
    static constexpr int64_t part_bytes = V::rows * 4;
    static constexpr int64_t panel_bytes = block_bytes(8);
    static constexpr int panel_tokens = Bytes::panel_tokens;
    using Sums = typename Bytes::Sums;
    using Codes = decltype(Bytes::load(nullptr));  // Bytes itself or what it adds its products to

    template <int bits>
    static void dots(const uint8_t* block, const Activations& x, int64_t at, V (&out)[parts]) {
        constexpr int offset = bits == 8 ? Bytes::offset : 0;  // smaller codes are the same signed and unsigned
        Sums upper[parts], lower[parts];
        for (int part = 0; part < parts; ++part) upper[part] = lower[part] = Bytes::zero();
        unrolled<quads>([&](auto quad) {
            const auto high = Bytes::four(x.high + at * block_columns + quad * 4);
            const auto low = Bytes::four(x.low + at * block_columns + quad * 4);
            for (int part = 0; part < parts; ++part) {
                Codes codes = quad_bits<Codes, bits, 0, quad>(block + part * part_bytes);
                if constexpr (offset != 0) codes = Bytes::with_sign(codes);
                upper[part] = Bytes::dot(upper[part], codes, high);
                lower[part] = Bytes::dot(lower[part], codes, low);
            }
        });
        for (int part = 0; part < parts; ++part)
            out[part] = Bytes::joined(upper[part], lower[part], offset * x.sum[at]);
    }

    // A panel holds the quads one after the other, minus the offset.
    template <int bits>
    static void unpack(const uint8_t* block, uint8_t* panel) {
        unrolled<quads>([&](auto quad) {
            for (int part = 0; part < parts; ++part) {
                Codes codes = quad_bits<Codes, bits, 0, quad>(block + part * part_bytes);
                if constexpr (Bytes::offset != 0) codes = Bytes::with_sign(codes);
                codes.store(panel + quad * vector_bytes + part * part_bytes);
            }
        });
    }

    template <int tokens>
    static void panel_dots(const uint8_t* panel, const Activations& x, int64_t at, V (&out)[tokens][parts]) {
        const int8_t *const high = x.high + at * block_columns, *const low = x.low + at * block_columns;
        Sums upper[tokens][parts], lower[tokens][parts];
        for (int token = 0; token < tokens; ++token)
            for (int part = 0; part < parts; ++part) upper[token][part] = lower[token][part] = Bytes::zero();
        for (int quad = 0; quad < quads; ++quad) {
            Codes codes[parts];
            for (int part = 0; part < parts; ++part)
                codes[part] = Bytes::load(panel + quad * vector_bytes + part * part_bytes);
            for (int token = 0; token < tokens; ++token) {
                const auto four_high = Bytes::four(high + token * block_columns + quad * 4);
                const auto four_low = Bytes::four(low + token * block_columns + quad * 4);
                for (int part = 0; part < parts; ++part) {
                    upper[token][part] = Bytes::dot(upper[token][part], codes[part], four_high);
                    lower[token][part] = Bytes::dot(lower[token][part], codes[part], four_low);
                }
            }
        }
        for (int token = 0; token < tokens; ++token)
            for (int part = 0; part < parts; ++part)
                out[token][part] =
                    Bytes::joined(upper[token][part], lower[token][part], Bytes::offset * x.sum[at + token]);
    }
};

}  // namespace
}  // namespace moecompress
