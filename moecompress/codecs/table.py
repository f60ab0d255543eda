"""The codecs by name: specs to and from plain values, the codec of a spec, and the sizes that follow from a spec."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from pydantic import ValidationError

from moecompress.codecs.base import Codec, CodecSpec
from moecompress.core.errors import ArtifactError
from moecompress.core.registry import members, nearest


def codecs() -> dict[str, Codec]:
    """Codec id → codec."""
    return members("moecompress.codecs", "CODEC", "moecompress.codecs")


def codec_of(spec: CodecSpec) -> Codec:
    """The codec that stores weights of this spec."""
    return codecs()[spec.codec]


def parse_spec(value: Mapping[str, Any]) -> CodecSpec:
    """The spec written as a plain mapping. Raises ArtifactError for an unknown codec or bad parameters."""
    name = value.get("codec")
    known = codecs()
    if not isinstance(name, str) or name not in known:
        raise ArtifactError(
            f"Unknown codec {name!r}.{nearest(str(name), list(known))} A newer moecompress may know it."
        )
    try:
        return known[name].Spec.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"Bad parameter {where!r} of codec {name!r}: {repr(first['input'])[:100]}. {first['msg']}."
        ) from error


def nbytes(spec: CodecSpec, shape: tuple[int, ...]) -> int:
    """Bytes of a packed weight of this spec and shape, scales and padding included."""
    return codec_of(spec).nbytes(spec, shape)


def effective_bits(spec: CodecSpec, shape: tuple[int, ...]) -> float:
    """Stored bits per weight: 8 · nbytes / weights, scales and padding included."""
    return 8 * nbytes(spec, shape) / prod(shape)
