"""The original's log-probabilities, computed once per model and text and kept on disk in half precision.

A row's log-probabilities lie in about [-30, 0]; half precision keeps them to 1 part in 2048, far finer than any
difference between a compressed model and its original that is worth reporting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moecompress.core.hashing import fingerprint, sha256_bytes
from moecompress.evaluate.metrics import Floats, log_softmax

Window = npt.NDArray[np.integer]


class ReferenceLogits:
    """Log-probabilities of the original for a fixed list of windows, on disk under `root`."""

    def __init__(self, root: Path, model_hash: str, windows: Sequence[Window], vocabulary: int) -> None:
        tokens = [sha256_bytes(np.ascontiguousarray(window, dtype=np.int32).data) for window in windows]
        key = fingerprint({"model": model_hash, "tokens": tokens, "format": 1})[:24]
        self._path = root / f"{key}.f16"
        self._windows = windows
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Whether the file is there; it only appears whole."""
        return self._path.is_file()

    def compute(self, logits: Callable[[Sequence[Window]], Iterable[npt.NDArray[np.floating]]]) -> None:
        """Fill the file from an engine's logits, one `[n, vocabulary]` array a window, unless it exists."""
        if self.complete:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                for rows in logits(self._windows):
                    file.write(log_softmax(rows).astype(np.float16).tobytes())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Floats]:
        """One float32 array `[n, vocabulary]` per window, in order."""
        with self._path.open("rb") as file:
            for window in self._windows:
                values = np.fromfile(file, dtype=np.float16, count=len(window) * self._vocabulary)
                yield values.reshape(len(window), self._vocabulary).astype(np.float32)
