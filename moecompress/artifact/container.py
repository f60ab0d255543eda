"""The safetensors container, as far as artifacts use it: flat byte tensors behind a header of whole 4 KiB pages.

A file is an 8-byte little-endian header length, a JSON header padded with spaces, and the tensors without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moecompress.artifact import strict_json
from moecompress.artifact.files import OpenFile
from moecompress.core.errors import ArtifactError

PAGE = 4096
LINE = 64
MAX_HEADER = 100_000_000
_METADATA = {"format": "moecompress", "format_version": "1"}


@dataclass(frozen=True)
class Span:
    """Bytes of one tensor: `offset` from the start of the file."""

    offset: int
    length: int


def aligned(position: int, boundary: int) -> int:
    """The first multiple of `boundary` at or after `position`."""
    return -(-position // boundary) * boundary


def build_header(lengths: Iterable[tuple[str, int]]) -> bytes:
    """Header of a file holding one U8 tensor of each length, in this order; a multiple of 4096 bytes."""
    entries: dict[str, Any] = {"__metadata__": _METADATA}
    position = 0
    for name, length in lengths:
        entries[name] = {"dtype": "U8", "shape": [length], "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(entries, separators=(",", ":")).encode()
    size = aligned(8 + len(text), PAGE) - 8
    return size.to_bytes(8, "little") + text.ljust(size)


def read_header(file: OpenFile) -> dict[str, Span]:
    """Tensor name → its bytes in the file. Raises ArtifactError unless the tensors cover the data without gaps."""
    size = _header_size(file)
    raw = bytes(file.read(8, size))
    if raw[:1] != b"{":
        raise ArtifactError(f"{file.path}: the safetensors header does not begin with an opening brace.")
    entries = strict_json.loads(raw, str(file.path))
    entries.pop("__metadata__", None)
    spans = {name: _span(file, name, entry, 8 + size) for name, entry in entries.items()}
    position = 8 + size
    for name, span in sorted(spans.items(), key=lambda item: (item[1].offset, item[1].length)):
        if span.offset != position:
            raise ArtifactError(f"{file.path}: tensor {name!r} begins at byte {span.offset}, expected {position}.")
        position += span.length
    if position != file.size:
        raise ArtifactError(f"{file.path} has {file.size} bytes, but its tensors end at byte {position}.")
    return spans


def _header_size(file: OpenFile) -> int:
    size = int.from_bytes(file.read(0, 8), "little")
    if size > MAX_HEADER or 8 + size > file.size or (8 + size) % PAGE:
        raise ArtifactError(
            f"{file.path}: a header of {size} bytes is not possible. Allowed are at most {MAX_HEADER} bytes, "
            f"inside the file's {file.size}, ending on a multiple of {PAGE}."
        )
    return size


def _span(file: OpenFile, name: str, entry: Any, start: int) -> Span:
    match entry:
        case {"dtype": "U8", "shape": [int(length)], "data_offsets": [int(first), int(last)], **rest}:
            if not rest and first >= 0 and last - first == length >= 0:
                return Span(start + first, length)
    raise ArtifactError(
        f"{file.path}: tensor {name!r} is not a flat U8 tensor with matching offsets: {str(entry)[:100]}."
    )
