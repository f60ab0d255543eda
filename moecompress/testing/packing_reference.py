"""The packed layouts of FORMAT.md §3, one element at a time: slow, readable, and independent of `codecs/packing.py`."""

from __future__ import annotations

import struct

import numpy as np

from moecompress.codecs.base import EncodedWeight

PLANES = {1: [1], 2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}


def pack_affine(weight: EncodedWeight, bits: int, group_size: int) -> bytes:
    """The bytes of an affine weight, tile by tile, group by group, block by block."""
    rows, columns = weight.shape
    out = bytearray()
    for first_row in range(0, rows, 16):
        for group, first_column in enumerate(range(0, columns, group_size)):
            for name in ("scale", "minimum"):
                for row in range(first_row, first_row + 16):
                    value = float(weight.arrays[name][row, group]) if row < rows else 0.0
                    out += struct.pack("<e", value)
            last_column = min(first_column + group_size, columns)
            for block in range(first_column, last_column, 32):
                out += pack_block(weight.arrays["codes"], first_row, block, bits)
    return bytes(out)


def pack_block(codes: np.ndarray, first_row: int, first_column: int, bits: int) -> bytes:
    """One block of 16 rows × 32 columns as bit planes, the lowest bits in the first plane."""
    rows, columns = codes.shape
    out = bytearray()
    shift = 0
    for width in PLANES[bits]:
        plane = bytearray(64 * width)
        for row in range(16):
            for column in range(32):
                inside = first_row + row < rows and first_column + column < columns
                code = int(codes[first_row + row, first_column + column]) if inside else 0
                digit = (code // 2**shift) % 2**width
                quad, lane = divmod(column, 4)
                position, vector = divmod(quad, width)
                plane[64 * vector + 4 * row + lane] += digit * 2 ** (position * width)
        out += plane
        shift += width
    return bytes(out)


def pack_dense(weight: EncodedWeight) -> bytes:
    """The bytes of a dense weight: 16 rows of each column side by side; other tensors in plain order."""
    values = weight.arrays["weight"]
    letter = "<H" if values.dtype == np.uint16 else "<f"
    if values.ndim != 2:
        return b"".join(struct.pack(letter, value) for value in values.reshape(-1).tolist())
    rows, columns = values.shape
    out = bytearray()
    for first_row in range(0, rows, 16):
        for column in range(columns):
            for row in range(first_row, first_row + 16):
                out += struct.pack(letter, values[row, column].item() if row < rows else 0)
    return bytes(out)
