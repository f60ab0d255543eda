"""Pieces of text, cut at line ends, and orders that depend on a seed alone.

The order comes from SHA-256, so it is the same on every machine and with every Python version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moecompress.calibration.corpus import Corpus


@dataclass(frozen=True)
class Piece:
    """`size` characters from `start` of one row of one corpus, before both cuts are moved to line ends."""

    corpus: Corpus
    row: int
    start: int
    size: int

    @property
    def ends_row(self) -> bool:
        """Whether the row ends with this piece."""
        return self.start + self.size >= self.corpus.lengths[self.row]

    def text(self) -> str:
        """The piece's text; neighbours share nothing and lose nothing."""
        whole = self.corpus.text(self.row)
        if self.start == 0 and self.ends_row:
            return whole
        reach = self.size // 4
        return whole[line_end(whole, self.start, reach) : line_end(whole, self.start + self.size, reach)]


def line_end(text: str, offset: int, reach: int) -> int:
    """The first position after a newline, else after a space, within `reach` of `offset`; else `offset` itself."""
    if offset <= 0 or offset >= len(text):
        return max(0, min(offset, len(text)))
    for mark in ("\n", " "):
        found = text.find(mark, offset - 1, offset + reach)
        if found >= 0:
            return found + 1
    return offset


def pieces_of(corpus: Corpus, size: int, rows: Sequence[int] | None = None) -> Iterator[Piece]:
    """The given rows of a corpus (all by default), cut every `size` characters; empty rows give none."""
    for row in range(len(corpus.lengths)) if rows is None else rows:
        for start in range(0, corpus.lengths[row], size):
            yield Piece(corpus, row, start, size)


def seeded_order(count: int, seed: str) -> list[int]:
    """A permutation of range(count) that depends on `seed` alone."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` split into whole numbers in proportion to `weights`; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
