"""How fast an engine reads a prompt and goes on, on given token ids, and what it read from disk for that.

The text is forced: the engine chooses every token, but goes on with the text's own, so that experts are routed as in
real text and no text ends early. Before each run the key-value cache is emptied; experts stay in memory.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moecompress.runtime.engine import Engine
from moecompress.runtime.results import StoreStats

_AGREE = 0.05
_SLACK = 64 << 10  # bytes: files that Python opens meanwhile


@dataclass(frozen=True)
class Phase:
    """Part of a run: its tokens and seconds, bytes read as the store counts them, and as /proc/self/io does."""

    tokens: int
    seconds: float
    bytes_read: int
    process_bytes_read: int

    @property
    def tokens_per_s(self) -> float:
        """Speed."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Run:
    """One prompt and its continuation. `store` counts both."""

    prefill: Phase
    decode: Phase
    store: StoreStats


@dataclass(frozen=True)
class Spread:
    """A figure over several runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Disk:
    """Bytes read per decoded token: by the store's count and by the kernel's. `agree`: within 5 %."""

    bytes_per_token: float
    process_bytes_per_token: float
    prefill_bytes: float
    agree: bool
    direct: bool


def run(engine: Engine, ids: Sequence[int], prompt: int) -> Run:
    """Read the first `prompt` of the ids, then go through the rest one by one."""
    held = list(ids[:prompt])
    engine.forget()
    marks = [_mark()]
    engine.start(held)
    marks.append(_mark())
    read = engine.store_stats().bytes_read
    for token in ids[prompt:]:
        held.append(token)
        engine.step(held)
    marks.append(_mark())
    store = engine.store_stats()
    parts = [(prompt, read), (len(ids) - prompt, store.bytes_read - read)]
    prefill, decode = (
        Phase(tokens, after[0] - before[0], count, after[1] - before[1])
        for (tokens, count), before, after in zip(parts, marks, marks[1:], strict=False)
    )
    return Run(prefill, decode, store)


def disk(runs: Sequence[Run]) -> Disk:
    """What decoding read, over all runs."""
    tokens = sum(run.decode.tokens for run in runs)
    counted, process = (sum(getattr(run.decode, name) for run in runs) for name in ("bytes_read", "process_bytes_read"))
    return Disk(
        bytes_per_token=counted / tokens,
        process_bytes_per_token=process / tokens,
        prefill_bytes=statistics.median(run.prefill.bytes_read for run in runs),
        agree=abs(counted - process) <= max(_AGREE * max(counted, process), _SLACK),
        direct=all(run.store.direct for run in runs),
    )


def lookups(runs: Sequence[Run]) -> dict[str, int | float | None]:
    """Experts looked up while decoding, and the shares that were found: still there, read ahead, or neither.

    `wasted_reads` of `speculative_reads` experts that were read ahead were never used; shares are None without lookups.
    """
    names = ("decode_hits", "decode_speculative_hits", "decode_misses", "reads", "speculative_reads", "wasted_reads")
    counts = {name: sum(getattr(run.store, name) for run in runs) for name in names}
    total = sum(run.store.decode_lookups for run in runs)

    def share(name: str) -> float | None:
        return counts[name] / total if total else None

    shares = {"hit_rate": share("decode_hits"), "speculative_hit_rate": share("decode_speculative_hits")}
    return {**counts, **shares, "miss_rate": share("decode_misses")}


def _mark() -> tuple[float, int]:
    """(now, bytes that the kernel has fetched from storage for this process)."""
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    return time.perf_counter(), int(found[1]) if found else 0
