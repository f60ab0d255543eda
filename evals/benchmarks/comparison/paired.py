"""Two or more engines measured in turns, A B A B, the waiting ones stopped; and what a list of repeats says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from comparison.protocol import Worker

PROMPT = 32


def decode_turns(workers: Mapping[str, Worker], ids: Sequence[int], repeats: int, count: int) -> dict[str, list[float]]:
    """Seconds per token of each worker's repeats: a prompt of 32 tokens, then `count` given tokens decoded.

    Every worker gets the same ids in a repeat, other ids in the next one. A first repeat is thrown away.
    """
    for worker in workers.values():
        worker.pause()
    found: dict[str, list[float]] = {name: [] for name in workers}
    for repeat in range(repeats + 1):
        part = portion(ids, repeat, PROMPT + count)
        for name, worker in workers.items():
            worker.resume()
            worker.ask("prefill", ids=part[:PROMPT])
            seconds = worker.ask("decode", ids=part[PROMPT:])["seconds"]
            worker.pause()
            if repeat:
                found[name].append(statistics.fmean(seconds))
    return found


def prefill_turns(
    workers: Mapping[str, Worker], ids: Sequence[int], repeats: int, count: int
) -> dict[str, list[float]]:
    """Seconds per token of each worker's repeats over a prompt of `count` tokens; a first repeat is thrown away."""
    for worker in workers.values():
        worker.pause()
    found: dict[str, list[float]] = {name: [] for name in workers}
    for repeat in range(repeats + 1):
        part = portion(ids, repeat, count)
        for name, worker in workers.items():
            worker.resume()
            answer = worker.ask("prefill", ids=part)
            worker.pause()
            if answer["reused"]:
                raise ValueError(f"{name} reused {answer['reused']} tokens of the prompt before; the ids must differ.")
            if repeat:
                found[name].append(answer["seconds"] / count)
    return found


def portion(ids: Sequence[int], turn: int, count: int) -> list[int]:
    """`count` ids that begin elsewhere at every turn, and with an id of its own, so that nothing is reused."""
    start = turn * (count // 2 + 1) % (len(ids) - count)
    return [turn, *ids[start + 1 : start + count]]


def rates(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Name → median tokens per second, and every repeat's."""
    return {
        name: {"tps": round(1 / statistics.median(values), 3), "repeats": [round(1 / value, 3) for value in values]}
        for name, values in seconds.items()
    }


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over repeats of how many times faster we were than the peer in the same turn."""
    return round(statistics.median(their / our for our, their in zip(ours, theirs, strict=True)), 3)
