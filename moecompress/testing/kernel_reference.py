"""What the runtime's kernels must compute, bit for bit, in numpy: every operation rounded once, in the stated order.

T tokens, B blocks of 32 input columns (the last one padded with zeros). Slow and plain on purpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.bfloat16 import bf16_values
from moecompress.codecs.packing import padded
from moecompress.codecs.tiles import BLOCK_COLUMNS

Floats = npt.NDArray[np.float32]

LIMIT = np.float32(32512.0)
PARTS = 16


def fused(a: Any, b: Any, c: Any) -> Floats:
    """a · b + c in float32 with one rounding.

    The product is exact in float64. Their sum is rounded to odd there, which makes the second rounding, to float32,
    the only one that counts (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    with np.errstate(invalid="ignore"):
        shadow = total - product
        error = (product - (total - shadow)) + (addend - shadow)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    inexact = np.isfinite(error) & (error != 0) & even
    nudged = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    with np.errstate(over="ignore", under="ignore"):
        return np.where(inexact, nudged, total).astype(np.float32)


class Quantized(NamedTuple):
    """`integers` int32 `[T, B, 32]`, `scale` float32 and `sum` int32 `[T, B]`."""

    integers: npt.NDArray[np.int32]
    scale: Floats
    sum: npt.NDArray[np.int32]

    @property
    def high(self) -> npt.NDArray[np.int8]:
        """The upper plane `[T, B · 32]`: integers are 256 · high + low."""
        upper = (self.integers - self.low.reshape(self.integers.shape)) // 256
        return upper.astype(np.int8).reshape(len(self.sum), -1)

    @property
    def low(self) -> npt.NDArray[np.int8]:
        """The lower plane `[T, B · 32]`."""
        return (self.integers & 255).astype(np.uint8).view(np.int8).reshape(len(self.sum), -1)


def quantize_activations(x: Floats) -> Quantized:
    """15-bit integers of `x` `[T, columns]` with a scale per token and block; NaN where a block is not finite."""
    blocks = -(-x.shape[1] // BLOCK_COLUMNS)
    values = padded(x, (len(x), blocks * BLOCK_COLUMNS)).reshape(len(x), blocks, BLOCK_COLUMNS)
    finite = np.isfinite(values).all(axis=2)
    values = np.where(finite[:, :, None], values, np.float32(0))
    scale = np.abs(values).max(axis=2) / LIMIT
    divisor = np.where(scale > 0, scale, np.float32(1))[:, :, None]
    integers = np.clip(np.rint(values / divisor), -LIMIT, LIMIT) * (scale > 0)[:, :, None]
    exact = integers.astype(np.int32)
    return Quantized(exact, np.where(finite, scale, np.float32(np.nan)), exact.sum(axis=2, dtype=np.int32))


def affine_matmul(weight: EncodedWeight, x: Floats) -> Floats:
    """`x` `[T, in]` times an affine weight `[out, in]`: `[T, out]`; two fused operations a block, in their order."""
    activations = quantize_activations(x)
    blocks = activations.sum.shape[1]
    group_blocks = weight.spec.group_size // BLOCK_COLUMNS  # type: ignore[attr-defined]
    codes = padded(weight.arrays["codes"], (weight.shape[0], blocks * BLOCK_COLUMNS)).astype(np.int64)
    out = np.zeros((len(x), weight.shape[0]), np.float32)
    for block in range(blocks):
        columns = slice(block * BLOCK_COLUMNS, (block + 1) * BLOCK_COLUMNS)
        scale = weight.arrays["scale"][:, block // group_blocks].astype(np.float32)
        minimum = weight.arrays["minimum"][:, block // group_blocks].astype(np.float32)
        dots = (activations.integers[:, block].astype(np.int64) @ codes[:, columns].T).astype(np.float32)
        totals = activations.sum[:, block, None].astype(np.float32)
        term = fused(scale, dots, minimum * totals)
        out = fused(activations.scale[:, block, None], term, out)
    return out


def dense_matmul(weight: EncodedWeight, x: Floats) -> Floats:
    """`x` `[T, in]` times a dense weight `[out, in]`: four partial sums by column mod 4, added as (0 + 1) + (2 + 3)."""
    stored = weight.arrays["weight"]
    values = bf16_values(stored) if stored.dtype == np.uint16 else stored
    parts: list[Floats] = [np.zeros((len(x), weight.shape[0]), np.float32)] * 4
    for column in range(weight.shape[1]):
        parts[column % 4] = fused(values[:, column], x[:, column, None], parts[column % 4])
    return np.asarray((parts[0] + parts[1]) + (parts[2] + parts[3]), np.float32)


def dot(a: Floats, b: Floats) -> np.float32:
    """Inner product of two vectors: element i into sum i mod 16, then halves added 8, 4, 2, 1."""
    sums = np.zeros(PARTS, np.float32)
    for start in range(0, len(a), PARTS):
        some = slice(start, start + PARTS)
        count = len(a[some])
        sums[:count] = fused(a[some], b[some], sums[:count])
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return np.float32(sums[0])


def row_dots(rows: npt.NDArray[Any], x: Floats) -> Floats:
    """Inner products of each line of `x` `[v, n]` with each of `rows` `[r, n]`: `[v, r]`."""
    return np.array([[dot(line, row.astype(np.float32)) for row in rows] for line in x], np.float32)


def add_rows(rows: npt.NDArray[Any], factors: Floats, y: Floats) -> Floats:
    """`y` `[v, n]` plus `factors` `[v, r]` times `rows` `[r, n]`, row after row, each element rounded once a row."""
    for index, row in enumerate(rows):
        y = fused(factors[:, index, None], row.astype(np.float32), y)
    return y
