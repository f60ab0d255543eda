"""Arrays on disk that are written in one sweep and read by rows, without ever being resident as a whole.

Files are NumPy's `.npy`. They are written with plain writes and read through a mapping whose pages are given back after
each read, so neither counts towards the process's resident memory for long.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moecompress.core.errors import CalibrationError

Array = npt.NDArray[Any]


class ArrayWriter:
    """An `.npy` file of known shape, filled from the first row to the last."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self._dtype = np.dtype(dtype)
        self._left = shape[0]
        self._file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: Array) -> None:
        """The next rows."""
        self._left -= len(rows)
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)

    def close(self) -> None:
        """Make the file safe on disk. Raises CalibrationError when rows are missing or too many."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._left:
            raise CalibrationError(f"{self._file.name} was left {self._left} rows short of its shape; this is a bug.")


def map_array(path: Path) -> np.memmap[Any, Any]:
    """The array of an `.npy` file, mapped read-only. Raises CalibrationError for a missing or damaged file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from error
    if not isinstance(array, np.memmap):
        raise damaged(path, "it is no plain array")
    return array


def damaged(path: Path, reason: object) -> CalibrationError:
    """The error for a file of the statistics store that cannot be read."""
    return CalibrationError(
        f"{path} of the statistics store is damaged: {reason}. Delete the folder {path.parent}; it is made again."
    )


def take(array: np.memmap[Any, Any], rows: slice | Array) -> Array:
    """A copy of some rows of a mapped array; the pages it touched are given back."""
    values = array[rows]
    if isinstance(rows, slice):
        values = np.array(values)
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
    return values


def bf16_bits(values: torch.Tensor) -> Array:
    """Values rounded to bfloat16, as uint16 bit patterns."""
    return values.detach().to(torch.bfloat16).contiguous().view(torch.uint16).numpy()


def from_bf16_bits(bits: Array) -> torch.Tensor:
    """The float32 tensor that bfloat16 bit patterns stand for."""
    return torch.from_numpy(bits).view(torch.bfloat16).float()


def sync_folder(folder: Path) -> None:
    """Make renames and new names inside a folder safe on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
