"""One safetensors file, read in pieces whose mapped pages are given back.

`safe_open` maps the file; every page that was read stays in this process's resident memory until the mapping ends. So
tensors are copied out, and the mapping is renewed after every `RENEW_BYTES`: resident memory stays bounded however
large the shard is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from moecompress.core.errors import SourceError

RENEW_BYTES = 32 << 20

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies and what the header says about it."""

    shard: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along the first axis (of the whole tensor when it is a scalar)."""
        numbers = 1
        for size in self.shape[1:]:
            numbers *= size
        return numbers * self.dtype.itemsize


def open_shard(path: Path) -> Any:
    """A `safe_open` handle. Raises SourceError when the file is missing, truncated or no safetensors file."""
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        raise SourceError(f"The shard {path} is missing. Fetch it again, or remove it from the index.") from None
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise SourceError(
            f"The shard {path} ({size} bytes) is truncated or no safetensors file: {error}. Fetch it again."
        ) from error


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name → entry for every tensor of a shard; the file's size is checked against what its header declares."""
    entries = {}
    with open_shard(path) as handle:
        for name in handle.keys():  # noqa: SIM118 - a safe_open handle is no mapping
            view = handle.get_slice(name)
            code = view.get_dtype()
            if code not in DTYPES:
                raise SourceError(f"{name!r} in {path} has the type {code}; known: {', '.join(DTYPES)}.")
            entries[name] = TensorEntry(path, tuple(view.get_shape()), DTYPES[code])
    return entries


class ShardReader:
    """Copies row ranges out of one shard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: Any = None
        self._mapped = 0

    def copy_rows(self, name: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy rows `start:stop` of a tensor with at least one axis into `out`."""
        if self._handle is None:
            self._handle = open_shard(self._path)
        out.copy_(self._handle.get_slice(name)[start:stop])
        self._mapped += out.nbytes
        if self._mapped >= RENEW_BYTES:
            self.close()

    def scalar(self, name: str) -> torch.Tensor:
        """A copy of a tensor without axes."""
        with open_shard(self._path) as handle:
            value: torch.Tensor = handle.get_tensor(name)
            return value.clone()

    def close(self) -> None:
        """End the mapping; the next read makes a new one."""
        self._handle, self._mapped = None, 0
