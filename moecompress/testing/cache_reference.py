"""Cache policies in plain Python, and the cache they decide for: what the core must equal, eviction by eviction.

An expert is (layer, index). A policy is a function (state, expert) → score; the lowest score among what may go is given
up, the lower slot among equals. Times: `passes` counts tokens from 1, `uses` counts single uses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Expert = tuple[int, int]
Choices = npt.NDArray[np.uint16]


@dataclass
class State:
    """What happened so far, of every expert whether cached or not."""

    layers: int
    future: dict[Expert, list[int]]
    passes: int = 0
    layer: int = 0
    uses: int = 0
    history: dict[Expert, list[int]] = field(default_factory=dict)  # passes of its uses
    last_use: dict[Expert, int] = field(default_factory=dict)

    def use(self, expert: Expert) -> None:
        self.uses += 1
        self.history.setdefault(expert, []).append(self.passes)
        self.last_use[expert] = self.uses

    def count(self, expert: Expert) -> int:
        return len(self.history.get(expert, ()))

    def distance(self, expert: Expert) -> int:
        """Layers until the expert's own runs again."""
        return (expert[0] - self.layer - 1) % self.layers + 1


def lru(state: State, expert: Expert) -> Any:
    return state.last_use[expert]


def lfu(state: State, expert: Expert) -> Any:
    return state.count(expert), state.last_use[expert]


def edgemoe(state: State, expert: Expert) -> Any:
    return state.count(expert) / state.distance(expert), state.last_use[expert]


def expected(state: State, expert: Expert) -> Any:
    """In float32, term by term as the core does."""
    one = np.float32
    recent = steady = one(0)
    last = state.passes
    for used in state.history[expert]:
        recent = recent * _decay(used - last, 3) + one(0.5 * (1 - 2 ** (-1 / 3)))
        steady = steady * _decay(used - last, 64) + one(0.5 * (1 - 2 ** (-1 / 64)))
        last = used
    p = recent * _decay(state.passes - last, 3) + steady * _decay(state.passes - last, 64)
    return min(max(p, one(1e-4)), one(0.999)) / (one(state.distance(expert)) / one(state.layers) + one(0.25))


def _decay(age: int, half_life: int) -> np.float32:
    return np.float32(2.0 ** (-min(max(age, 0), 1024) / half_life))


def belady(state: State, expert: Expert) -> Any:
    moments = state.future[expert]
    now = state.passes * state.layers + state.layer
    upcoming = bisect_right(moments, now)
    return -moments[upcoming] if upcoming < len(moments) else -(1 << 62)


POLICIES: dict[str, Callable[[State, Expert], Any]] = {
    "lru": lru,
    "lfu": lfu,
    "edgemoe": edgemoe,
    "expected": expected,
    "belady": belady,
}


def replay(chosen: Choices, experts: Sequence[int], policy: str, slots: int) -> tuple[list[int], list[int]]:
    """Per choice [token][layer][rank] in order: 1 for a miss; per miss: the expert over all layers given up, or -1."""
    score, first = POLICIES[policy], np.concatenate([[0], np.cumsum(experts)])
    tokens, layers, _ = chosen.shape
    state = State(layers, _future(chosen))
    cache: list[Expert | None] = [None] * slots
    missed: list[int] = []
    given_up: list[int] = []
    for token in range(tokens):
        for layer in range(layers):
            state.passes, state.layer = token + 1, layer
            wanted = [(layer, int(expert)) for expert in chosen[token, layer]]
            missing = [expert for expert in wanted if expert not in cache]
            missed += [int(expert in missing) for expert in wanted]
            for expert in wanted:
                if expert not in missing:
                    state.use(expert)
            for expert in missing:
                slot = _slot(cache, state, score, wanted)
                gone = cache[slot]
                given_up.append(-1 if gone is None else int(first[gone[0]]) + gone[1])
                cache[slot] = expert
                state.use(expert)
    return missed, given_up


def _slot(cache: list[Expert | None], state: State, score: Callable[[State, Expert], Any], wanted: list[Expert]) -> int:
    if None in cache:
        return cache.index(None)
    free = [slot for slot, expert in enumerate(cache) if expert is not None and expert not in wanted]
    return min(free, key=lambda slot: score(state, cache[slot]))  # type: ignore[arg-type]


def _future(chosen: Choices) -> dict[Expert, list[int]]:
    """Expert → moments (pass × layers + layer) at which it is used, ascending."""
    tokens, layers, _ = chosen.shape
    future: dict[Expert, list[int]] = {}
    for token in range(tokens):
        for layer in range(layers):
            for expert in chosen[token, layer]:
                future.setdefault((layer, int(expert)), []).append((token + 1) * layers + layer)
    return future
