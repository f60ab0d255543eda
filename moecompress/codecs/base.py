"""What a codec is: how a compressed `[out, in]` matrix is stored, and exactly which numbers it stands for.

A codec file defines a frozen pydantic `Spec` (its parameters, with a `codec` literal), the class below, and
`CODEC = ThatClass()`. Bytes on disk are the bytes the kernels read. A different decoding always has a different `codec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Bytes = npt.NDArray[np.uint8]


class CodecSpec(BaseModel):
    """Parameters of a codec; equal specs decode alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    codec: str

    @property
    def key(self) -> str:
        """A short unique name used in tables, for example `affine4g64`."""
        raise NotImplementedError


@dataclass(frozen=True)
class EncodedWeight:
    """A matrix in a codec's own terms, before packing: `arrays` are what the codec's file documents."""

    spec: CodecSpec
    shape: tuple[int, ...]
    arrays: Mapping[str, npt.NDArray[Any]]


class Codec(Protocol):
    """One way to store a matrix."""

    Spec: type[CodecSpec]

    def nbytes(self, spec: Any, shape: tuple[int, ...]) -> int:
        """Bytes of the packed matrix, all parameters and padding included."""

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The kernel-ready bytes, `[nbytes]`."""

    def unpack(self, data: Bytes, spec: Any, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`. Raises ArtifactError when `data` has not exactly `nbytes` bytes."""

    def dequantize(self, weight: EncodedWeight) -> npt.NDArray[np.float32]:
        """The float32 matrix the codes stand for: the oracle of every kernel."""
