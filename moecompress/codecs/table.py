"""The codecs by name: specs to and from plain values, the codec of a spec, and the sizes that follow from a spec."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from moecompress.codecs.base import Codec, CodecSpec, bad_parameter
from moecompress.core import values
from moecompress.core.errors import ArtifactError
from moecompress.core.registry import member, members, nearest

_KIND = ("moecompress.codecs", "CODEC", "moecompress.codecs")


def codecs() -> dict[str, Codec]:
    """Codec id → codec."""
    return members(*_KIND)


def codec_of(spec: CodecSpec) -> Codec:
    """The codec that stores weights of this spec."""
    codec: Codec = member(spec.codec, *_KIND)
    return codec


def parse_spec(value: Mapping[str, Any]) -> CodecSpec:
    """The spec written as a plain mapping. Raises ArtifactError for an unknown codec or bad parameters."""
    name = value.get("codec")
    codec = member(name, *_KIND) if isinstance(name, str) else None
    if codec is None:
        raise ArtifactError(
            f"Unknown codec {name!r}.{nearest(str(name), list(codecs()))} A newer moecompress may know it."
        )
    try:
        spec: CodecSpec = values.read(codec.Spec, dict(value))
    except values.Mismatch as mismatch:
        raise bad_parameter(str(name), mismatch) from None
    return spec


def nbytes(spec: CodecSpec, shape: tuple[int, ...]) -> int:
    """Bytes of a packed weight of this spec and shape, scales and padding included."""
    return codec_of(spec).nbytes(spec, shape)


def effective_bits(spec: CodecSpec, shape: tuple[int, ...]) -> float:
    """Stored bits per weight: 8 · nbytes / weights, scales and padding included."""
    return 8 * nbytes(spec, shape) / prod(shape)
