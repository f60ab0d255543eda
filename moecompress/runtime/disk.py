"""How fast an artifact's own files can be read, in pieces as experts are: past the page cache where that works.

Only existing files are read, a bounded number of bytes for a bounded time.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

PIECES = (256 << 10, 1 << 20, 4 << 20)
LANES = (1, 2, 4)
_PAGE = 4096
_SECONDS = 0.25  # at most, for each of the nine combinations
_MOST_BYTES = 128 << 20  # the same


@dataclass(frozen=True)
class Rate:
    """Bytes a second with `lanes` readers at once, each reading `piece_bytes` at random places."""

    piece_bytes: int
    lanes: int
    bytes_per_s: float


@dataclass(frozen=True)
class DiskReport:
    """`direct`: whether reads past the page cache work. `rates` is empty when no file is as long as the pieces."""

    file: str
    direct: bool
    rates: tuple[Rate, ...]

    @property
    def best(self) -> float | None:
        """The highest rate."""
        return max((rate.bytes_per_s for rate in self.rates), default=None)


def measure_disk(files: list[Path]) -> DiskReport:
    """Read from the largest of the files for at most some three seconds in all."""
    file = max(files, key=lambda path: path.stat().st_size)
    with _opened(file) as (descriptor, direct):
        size = os.fstat(descriptor).st_size // _PAGE * _PAGE
        rates = [
            Rate(piece, lanes, _rate(descriptor, size, piece, lanes, direct))
            for piece in PIECES
            if piece <= size
            for lanes in LANES
        ]
    return DiskReport(str(file), direct, tuple(rates))


@contextmanager
def _opened(file: Path) -> Iterator[tuple[int, bool]]:
    """A descriptor, and whether it reads past the page cache."""
    direct = _reads_directly(file)
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
    try:
        yield descriptor, direct
    finally:
        os.close(descriptor)


def _reads_directly(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return False
    try:
        with mmap.mmap(-1, _PAGE) as page:
            return os.preadv(descriptor, [page], 0) > 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _rate(descriptor: int, size: int, piece: int, lanes: int, direct: bool) -> float:
    if not direct:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    counts = [0] * lanes
    begun = time.perf_counter()
    threads = [Thread(target=_read, args=(descriptor, size, piece, lane, lanes, counts)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def _read(descriptor: int, size: int, piece: int, lane: int, lanes: int, counts: list[int]) -> None:
    places = random.Random(1000 * lanes + lane)
    end = time.perf_counter() + _SECONDS
    with mmap.mmap(-1, piece) as buffer:
        while time.perf_counter() < end and counts[lane] < _MOST_BYTES // lanes:
            count = os.preadv(descriptor, [buffer], places.randrange((size - piece) // _PAGE + 1) * _PAGE)
            if count <= 0:
                return
            counts[lane] += count
