// The tile registers of AMX (palette 1) and its integer products, as the instructions' description says. What the
// processor answers with an exception, and registers nobody asked the operating system for, end the program here too.
#ifndef MOECOMPRESS_EMULATED_TILES
#define MOECOMPRESS_EMULATED_TILES

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

struct Tile {
    int rows = 0, row_bytes = 0;
    uint8_t bytes[16][64] = {};
};

struct TileRegisters {
    bool configured = false;
    Tile tiles[8];
};

inline thread_local TileRegisters registers;
inline bool tiles_granted = false;  // by the operating system

inline void require(bool condition, const char* what) {
    if (condition) return;
    std::printf("Tile exception: %s\n", what);
    std::exit(3);
}

inline Tile& tile(int number) {
    require(registers.configured, "registers are used before ldtilecfg or after tilerelease");
    require(number >= 0 && number < 8 && registers.tiles[number].rows > 0, "a register without a shape is used");
    return registers.tiles[number];
}

inline void load_shapes(const void* from) {
    if (!tiles_granted) __builtin_trap();
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes;
    static_assert(sizeof shapes == 64);
    std::memcpy(&shapes, from, sizeof shapes);
    require(shapes.palette == 1, "the palette is not 1");
    for (const uint8_t byte : shapes.reserved) require(byte == 0, "reserved bytes are not zero");
    registers = TileRegisters();
    registers.configured = true;
    for (int i = 0; i < 16; ++i) {
        const int rows = shapes.rows[i], row_bytes = shapes.row_bytes[i];
        require((rows == 0) == (row_bytes == 0) && rows <= 16 && row_bytes <= 64, "a shape is too large");
        require(i < 8 || rows == 0, "there are only eight registers");
        if (i < 8) registers.tiles[i].rows = rows, registers.tiles[i].row_bytes = row_bytes;
    }
}

inline void release_tiles() { registers = TileRegisters(); }

inline void zero_tile(int number) { std::memset(tile(number).bytes, 0, sizeof tile(number).bytes); }

inline void load_tile(int number, const void* from, int64_t stride) {
    zero_tile(number);
    Tile& to = tile(number);
    for (int row = 0; row < to.rows; ++row)
        std::memcpy(to.bytes[row], static_cast<const uint8_t*>(from) + row * stride, static_cast<size_t>(to.row_bytes));
}

inline void store_tile(int number, void* to, int64_t stride) {
    const Tile& from = tile(number);
    for (int row = 0; row < from.rows; ++row)
        std::memcpy(static_cast<uint8_t*>(to) + row * stride, from.bytes[row], static_cast<size_t>(from.row_bytes));
}

// sums[m][n] += a[m] * b[n] for quads of bytes, signed in a and unsigned in b; b holds quad k of all n in row k.
inline void add_products(int sums_number, int a_number, int b_number) {
    Tile &sums = tile(sums_number), &a = tile(a_number), &b = tile(b_number);
    require(sums_number != a_number && sums_number != b_number && a_number != b_number, "a register is used twice");
    require(a.rows == sums.rows && b.row_bytes == sums.row_bytes && a.row_bytes == 4 * b.rows, "shapes do not fit");
    for (int m = 0; m < a.rows; ++m)
        for (int n = 0; n < b.row_bytes / 4; ++n) {
            int32_t sum;
            std::memcpy(&sum, sums.bytes[m] + 4 * n, 4);
            for (int k = 0; k < a.row_bytes; ++k)
                sum += static_cast<int8_t>(a.bytes[m][k]) * b.bytes[k / 4][4 * n + k % 4];
            std::memcpy(sums.bytes[m] + 4 * n, &sum, 4);
        }
}

}  // namespace emulated

#define _tile_loadconfig(from) emulated::load_shapes(from)
#define _tile_release() emulated::release_tiles()
#define _tile_zero(number) emulated::zero_tile(number)
#define _tile_loadd(number, from, stride) emulated::load_tile(number, from, stride)
#define _tile_stored(number, to, stride) emulated::store_tile(number, to, stride)
#define _tile_dpbsud(sums, a, b) emulated::add_products(sums, a, b)

#endif
