"""What a codec is: how a compressed `[out, in]` matrix is stored, and exactly which numbers it stands for.

A codec file defines a frozen pydantic `Spec` (its parameters, with a `codec` literal), the class below, and
`CODEC = ThatClass()`. Bytes on disk are the bytes the kernels read. What decodes differently has another `codec`.
`moecompress.testing.check_codec` runs over every codec found.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from moecompress.core.errors import ArtifactError

Bytes = npt.NDArray[np.uint8]

MAX_DIMENSIONS = 8


class CodecSpec(BaseModel):
    """Parameters of a codec; equal specs decode alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    codec: str

    @property
    @abstractmethod
    def key(self) -> str:
        """A short unique name used in tables, for example `affine4g64`."""


@dataclass(frozen=True)
class EncodedWeight:
    """A matrix in a codec's own terms, before packing: `arrays` are what the codec's file documents."""

    spec: CodecSpec
    shape: tuple[int, ...]
    arrays: Mapping[str, npt.NDArray[Any]]

    @property
    def parameters(self) -> int:
        """How many weights it stands for."""
        return prod(self.shape)


class Codec(Protocol):
    """One way to store a matrix. `examples` are the specs that the conformance suite tries."""

    Spec: type[CodecSpec]
    examples: tuple[CodecSpec, ...]

    def nbytes(self, spec: Any, shape: tuple[int, ...]) -> int:
        """Bytes of the packed matrix, parameters and padding included. ArtifactError for a shape it cannot store."""

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The kernel-ready bytes, `[nbytes]`. ArtifactError when `weight.arrays` are not what the codec documents."""

    def unpack(self, data: Bytes, spec: Any, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`. Raises ArtifactError when `data` has not exactly `nbytes` bytes."""

    def dequantize(self, weight: EncodedWeight) -> npt.NDArray[np.float32]:
        """The float32 matrix the codes stand for: the oracle of every kernel."""

    def random(self, spec: Any, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
        """A weight with every code in use, for tests."""


def check_shape(spec: CodecSpec, shape: tuple[int, ...], dimensions: range) -> None:
    """Raise ArtifactError unless `shape` has one of the numbers of `dimensions` and no empty or negative size."""
    if len(shape) not in dimensions:
        allowed = " or ".join(str(count) for count in dimensions)
        raise ArtifactError(f"{spec.key} stores tensors of {allowed} dimensions, not of shape {list(shape)}.")
    if any(size < 1 for size in shape):
        raise ArtifactError(f"{spec.key} cannot store shape {list(shape)}: every size must be at least 1.")


def check_arrays(weight: EncodedWeight, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
    """Raise ArtifactError unless the weight has exactly the expected arrays: name → (shape, dtype)."""
    if set(weight.arrays) != set(expected):
        raise ArtifactError(
            f"A weight of codec {weight.spec.key} has the arrays {sorted(weight.arrays)}; expected {sorted(expected)}."
        )
    for name, (shape, dtype) in expected.items():
        array = weight.arrays[name]
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ArtifactError(
                f"Array {name!r} of a {weight.spec.key} weight of shape {list(weight.shape)} is {array.dtype} "
                f"{list(array.shape)}; expected {np.dtype(dtype)} {list(shape)}."
            )


def check_length(data: Bytes, spec: CodecSpec, shape: tuple[int, ...], nbytes: int) -> Bytes:
    """`data` as contiguous bytes. Raises ArtifactError unless it is uint8 of exactly `nbytes` bytes."""
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != nbytes:
        raise ArtifactError(
            f"A packed {spec.key} weight of shape {list(shape)} has {nbytes} bytes; "
            f"got {data.dtype} of shape {list(data.shape)}. The file is truncated or its table is wrong."
        )
    return np.ascontiguousarray(data)
