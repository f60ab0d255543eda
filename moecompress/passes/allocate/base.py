"""The contract of an allocator: which of several stored forms each expert gets, under one budget for all of them.

An allocator file defines its options (an `AllocationOptions`), `choose`, and `ALLOCATOR = Allocator(...)`; its name in
recipes is the file's name. It reads findings and returns choices; it sees no weights, touches no files and gives the
same answer for the same arguments. `moecompress.testing.check_allocator` checks all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError
from moecompress.core.hashing import canonical_json
from moecompress.core.types import PROJECTIONS, MoeLayer, Projection
from moecompress.passes.allocate.options import AllocationOptions

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Probe = Mapping[str, Any]
Assignment = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What there is to choose from: U experts, by layer and then by index, each with the same number C of assignments.

    `levels` are the stored forms, the smallest first; `assignments[layer]` is `[C, 3]`, the level of gate, up and down.
    `cost` `[U, C]` is counted like `limit`: bytes of the expert's record, or bare bits. `bytes` `[U, C]` are always
    record bytes. `limit` is None when the budget is not one of size. `method` names the pass's own quantizer.
    """

    layers: Mapping[int, MoeLayer]
    levels: tuple[AffineSpec, ...]
    assignments: Mapping[int, Integers]
    layer: Integers
    expert: Integers
    cost: Integers
    bytes: Integers
    limit: int | None
    method: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(U, C)."""
        return self.cost.shape[0], self.cost.shape[1]

    def of(self, layer: int) -> Integers:
        """The experts of a layer, as positions 0..U-1."""
        return np.flatnonzero(self.layer == layer)

    def specs(self, layer: int, choice: int) -> dict[Projection, AffineSpec]:
        """The stored form of each projection for one assignment of a layer."""
        row = self.assignments[layer][choice]
        present = [p for p in PROJECTIONS if p != "gate" or self.layers[layer].activation.gated]
        return {p: self.levels[row[PROJECTIONS.index(p)]] for p in present}

    @cached_property
    def weights(self) -> Integers:
        """Weights of each expert, `[U]`."""
        return np.array([self._weights_of(int(layer)) for layer in self.layer])

    def _weights_of(self, layer: int) -> int:
        moe = self.layers[layer]
        return sum(int(np.prod(moe.projection_shape(p))) for p in self.specs(layer, 0))

    def layer_limit(self, layer: int) -> int:
        """A layer's part of the limit, by its share of the weights."""
        if self.limit is None:
            raise CalibrationError("There is no budget to share among the layers.")
        own = self.of(layer)
        return int(self.limit) * int(self.weights[own].sum()) // int(self.weights.sum())


@dataclass(frozen=True)
class Findings:
    """What was measured: `answers[layer]` maps a probe's canonical JSON to its answer.

    `evaluate(choice, tokens)` is the mean cross-entropy of the model with these choices on that many calibration
    tokens; None where it cannot be had.
    """

    answers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    evaluate: Callable[[Integers, int], float] | None = None

    def of(self, layer: int, probe: Probe) -> Any:
        """The answer to a probe of a layer. Raises CalibrationError when it was not measured."""
        try:
            return self.answers[layer][canonical_json(probe)]
        except KeyError:
            raise CalibrationError(
                f"The allocator asks for {probe.get('kind')!r} of layer {layer}, which was not measured."
            ) from None


@dataclass(frozen=True, eq=False)
class Allocation:
    """`choice` `[U]` is each expert's assignment; `predicted` the allocator's own objective, less is better, if it has
    one; `details` is what the manifest records beside, plain values."""

    choice: Integers
    predicted: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def together(options: Any, levels: int) -> Sequence[Assignment]:
    """The grid of allocators that give an expert one level."""
    return [(level, level, level) for level in range(levels)]


def by_block(options: Any, levels: int) -> Sequence[Assignment]:
    """Gate and up share a level, down has its own; by rising size."""
    pairs = [(inner, down) for inner in range(levels) for down in range(levels)]
    return [(inner, inner, down) for inner, down in sorted(pairs, key=lambda pair: (2 * pair[0] + pair[1], pair))]


def _nothing(candidates: Candidates, options: Any) -> Mapping[int, Sequence[Probe]]:
    return {}


@dataclass(frozen=True)
class Allocator:
    """A registered allocator.

    grid(options, levels) lists the assignments it wants offered. probes(candidates, options) names, layer by layer,
    what it wants measured (`moecompress.passes.sensitivity`), and needs(options, method) the statistics behind that;
    without either it works from headers alone. choose(candidates, options, findings) decides.
    """

    options: type[AllocationOptions]
    choose: Callable[[Candidates, Any, Findings], Allocation]
    grid: Callable[[Any, int], Sequence[Assignment]] = together
    probes: Callable[[Candidates, Any], Mapping[int, Sequence[Probe]]] = _nothing
    needs: Callable[[Any, Mapping[str, Any]], frozenset[str]] = lambda options, method: frozenset()
