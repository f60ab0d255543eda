"""Blocks of llama.cpp's low-bit types with random bits and sane scales, for types whose real encoding takes hours.

Speed does not depend on the values, and the models are random anyway; routers, norms and embedding are real, so routing
is that of the other files. Every bit pattern of these types is valid except in the half-precision scales, which are set
so that the weights have a mean of zero and the wanted standard deviation.
"""

from __future__ import annotations

from functools import cache

import gguf
import numpy as np
import numpy.typing as npt

from synthetic.gguf_file import Type

SCALES: dict[Type, tuple[int, ...]] = {
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208,),
    Type.IQ2_XS: (0,),
    Type.IQ2_S: (0,),
    Type.IQ3_XXS: (0,),
    Type.IQ3_S: (0,),
    Type.IQ4_XS: (0,),
}
"""Where in a block its half-precision factors lie: of the codes and, for types with an offset, of the minimum."""


def random_blocks(
    kind: Type, shape: tuple[int, ...], deviation: float, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """The bytes of a random tensor of this type, about zero, with this standard deviation."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // block
    data = np.frombuffer(generator.bytes(count * size), np.uint8).reshape(count, size).copy()
    return with_scales(kind, data, [factor * deviation for factor in unit_factors(kind)]).reshape(-1)


def with_scales(kind: Type, data: npt.NDArray[np.uint8], factors: list[float]) -> npt.NDArray[np.uint8]:
    """Set the factors of blocks `[count, size]` in place."""
    for offset, factor in zip(SCALES[kind], factors, strict=True):
        data[:, offset : offset + 2] = np.array([factor], np.float16).view(np.uint8)
    return data


@cache
def unit_factors(kind: Type) -> list[float]:
    """The factors that give random blocks a mean of zero and a standard deviation of one."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(0).integers(0, 256, (2048, size), np.uint8)
    parts = []
    for index in range(len(SCALES[kind])):
        factors = [float(index == other) for other in range(len(SCALES[kind]))]
        parts.append(gguf.quants.dequantize(with_scales(kind, data.copy(), factors), kind).ravel())
    if len(parts) == 1:
        return [float(1 / parts[0].std())]
    offset = float(-parts[0].mean() / parts[1].mean())
    spread = float((parts[0] + offset * parts[1]).std())
    return [1 / spread, offset / spread]
