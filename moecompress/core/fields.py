"""Field types of options, as people write them in YAML: sizes (`400MiB`) and shares (`2%`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from moecompress.core.errors import UsageError
from moecompress.core.units import parse_share, parse_size


def _size(value: Any) -> int:
    """`parse_size` in the way pydantic expects, so that the error keeps its place in the file."""
    try:
        return parse_size(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _share(value: Any) -> float:
    try:
        return parse_share(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


Size = Annotated[int, BeforeValidator(_size)]
"""Bytes: 4096, 600MiB, 2GB."""

Share = Annotated[float, BeforeValidator(_share)]
"""A part of a whole, at least 0: 0.02 or 2%."""
