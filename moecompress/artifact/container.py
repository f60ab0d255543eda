"""The safetensors container, as far as this project uses it: tensors behind a header of whole 4 KiB pages.

A file is an 8-byte little-endian header length, a JSON header padded with spaces, and the tensors without gaps. Weights
are flat byte tensors; tables of numbers (priors, traces) are typed ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from moecompress.artifact import strict_json
from moecompress.artifact.files import OpenFile
from moecompress.core.errors import ArtifactError

PAGE = 4096
LINE = 64
MAX_HEADER = 100_000_000
METADATA = {"format": "moecompress", "format_version": "1"}
DTYPES = {"U8": "<u1", "U16": "<u2", "I64": "<i8", "F16": "<f2", "F32": "<f4"}  # safetensors' names → numpy's


@dataclass(frozen=True)
class Span:
    """Bytes of one tensor: `offset` from the start of the file."""

    offset: int
    length: int


@dataclass(frozen=True)
class Form:
    """Number type, one of DTYPES, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * int(DTYPES[self.dtype][-1])


def aligned(position: int, boundary: int) -> int:
    """The first multiple of `boundary` at or after `position`."""
    return -(-position // boundary) * boundary


def build_header(lengths: Iterable[tuple[str, int]]) -> bytes:
    """Header of a file holding one U8 tensor of each length, in this order; a multiple of 4096 bytes."""
    return typed_header(((name, Form("U8", (length,))) for name, length in lengths), METADATA)


def typed_header(forms: Iterable[tuple[str, Form]], metadata: Mapping[str, str]) -> bytes:
    """Header of a file holding these tensors in this order; a multiple of 4096 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, form in forms:
        end = position + form.nbytes
        entries[name] = {"dtype": form.dtype, "shape": list(form.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    size = aligned(8 + len(text), PAGE) - 8
    return size.to_bytes(8, "little") + text.ljust(size)


def read_header(file: OpenFile) -> dict[str, Span]:
    """Tensor name → its bytes in the file. Raises ArtifactError unless all are U8 and cover the data without gaps."""
    start, _, entries = _entries(file)
    spans = {name: _flat(file, name, entry, start) for name, entry in entries.items()}
    _check_cover(file, start, spans)
    return spans


def read_typed_header(file: OpenFile) -> tuple[dict[str, str], dict[str, tuple[Form, Span]]]:
    """Metadata, and tensor name → form and bytes in the file. Raises ArtifactError as `read_header` does."""
    start, metadata, entries = _entries(file)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArtifactError(f"{file.path}: the header's __metadata__ must map texts to texts.")
    tensors = {name: _typed(file, name, entry, start) for name, entry in entries.items()}
    _check_cover(file, start, {name: span for name, (_, span) in tensors.items()})
    return metadata, tensors


def _entries(file: OpenFile) -> tuple[int, Any, dict[str, Any]]:
    """Where the data begins, and what the header says: metadata, and an entry per tensor."""
    size = _header_size(file)
    raw = bytes(file.read(8, size))
    if raw[:1] != b"{":
        raise ArtifactError(f"{file.path}: the safetensors header does not begin with an opening brace.")
    entries = strict_json.loads(raw, str(file.path))
    return 8 + size, entries.pop("__metadata__", {}), entries


def _check_cover(file: OpenFile, start: int, spans: Mapping[str, Span]) -> None:
    position = start
    for name, span in sorted(spans.items(), key=lambda item: (item[1].offset, item[1].length)):
        if span.offset != position:
            raise ArtifactError(f"{file.path}: tensor {name!r} begins at byte {span.offset}, expected {position}.")
        position += span.length
    if position != file.size:
        raise ArtifactError(f"{file.path} has {file.size} bytes, but its tensors end at byte {position}.")


def _header_size(file: OpenFile) -> int:
    size = int.from_bytes(file.read(0, 8), "little")
    if size > MAX_HEADER or 8 + size > file.size or (8 + size) % PAGE:
        raise ArtifactError(
            f"{file.path}: a header of {size} bytes is not possible. Allowed are at most {MAX_HEADER} bytes, "
            f"inside the file's {file.size}, ending on a multiple of {PAGE}."
        )
    return size


def _flat(file: OpenFile, name: str, entry: Any, start: int) -> Span:
    match entry:
        case {"dtype": "U8", "shape": [int(length)], "data_offsets": [int(first), int(last)], **rest}:
            if not rest and first >= 0 and last - first == length >= 0:
                return Span(start + first, length)
    raise ArtifactError(
        f"{file.path}: tensor {name!r} is not a flat U8 tensor with matching offsets: {str(entry)[:100]}."
    )


def _typed(file: OpenFile, name: str, entry: Any, start: int) -> tuple[Form, Span]:
    match entry:
        case {"dtype": str(dtype), "shape": [*sizes], "data_offsets": [int(first), int(last)], **rest}:
            whole = (
                dtype in DTYPES and len(sizes) <= 8 and all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
            )
            if not rest and whole and first >= 0 and last - first == Form(dtype, tuple(sizes)).nbytes:
                return Form(dtype, tuple(sizes)), Span(start + first, last - first)
    raise ArtifactError(
        f"{file.path}: tensor {name!r} has no known number type ({', '.join(DTYPES)}) or its offsets do not match its "
        f"shape: {str(entry)[:100]}."
    )
