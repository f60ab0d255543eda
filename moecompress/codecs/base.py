"""What a codec is: how a compressed `[out, in]` matrix is stored, and exactly which numbers it stands for.

A codec file defines a frozen dataclass `Spec` (its parameters, with a `codec` literal), the class below, and
`CODEC = ThatClass()`. Bytes on disk are the bytes the kernels read. What decodes differently has another `codec`.
Opening an artifact needs `Spec` and `nbytes` alone: numpy is imported where weights are packed or unpacked, not before.
`moecompress.testing.check_codec` runs over every codec found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from moecompress.core import values
from moecompress.core.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Bytes: TypeAlias = "npt.NDArray[np.uint8]"
Floats: TypeAlias = "npt.NDArray[np.float32]"

MAX_DIMENSIONS = 8


@dataclass(frozen=True, kw_only=True)
class CodecSpec(ABC):
    """Parameters of a codec; equal specs decode alike. Raises ArtifactError for a parameter out of its range."""

    codec: str

    def __post_init__(self) -> None:
        try:
            values.check(self)
        except values.Mismatch as mismatch:
            raise bad_parameter(self.codec, mismatch) from None

    @property
    @abstractmethod
    def key(self) -> str:
        """A short unique name used in tables, for example `affine4g64`."""


def bad_parameter(codec: str, mismatch: values.Mismatch) -> ArtifactError:
    """The error for a parameter of a codec that is not possible."""
    found = repr(mismatch.value)[:100]
    return ArtifactError(f"Bad parameter {mismatch.place!r} of codec {codec!r}: {found}. It {mismatch.words}.")


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

    def dequantize(self, weight: EncodedWeight) -> Floats:
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
