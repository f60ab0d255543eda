"""Error of a MoE block's output when one expert is replaced by a rounded one: `swap`.

Only tokens routed to the expert differ, and there by g · (y − ŷ), so the block never runs: the stored router inputs and
weights are enough. Per calibration token,

    error     mean ‖z − ẑ‖²                    (PMQ's ε is its root, arXiv 2410.06270)
    weighted  mean Σ_d γ_d² (z − ẑ)_d²         γ = d(cross-entropy)/dz, per token (GEMQ, arXiv 2605.23078)
    directed  mean (Σ_d γ_d (z − ẑ)_d)²        the same without taking the output's dimensions for independent

Half of `weighted` or `directed` estimates the nats per token that the rounding costs. A probe names the stored form of
gate, up and down (None: left as it is), the quantizer, at most how many tokens of an expert are looked at, and which
gradient weighs: none, that of the text's own next tokens, or that of tokens drawn from the model's prediction, whose
expectation is the Fisher information.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from moecompress.calibration.statistics import LayerStatistics, gated
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import parse_spec
from moecompress.core.errors import CalibrationError
from moecompress.core.types import PROJECTIONS, Projection
from moecompress.passes.base import LayerWeights, PassContext, dense
from moecompress.passes.quantize._expert import rounded_values
from moecompress.passes.quantize._hessians import ExpertHessians
from moecompress.passes.quantize._options import Solver
from moecompress.passes.sensitivity.base import Probe, Sensitivity

Gradient = Literal["none", "text", "model"]
FIGURES = ("error", "weighted", "directed")
_ROWS = 1024


def probe(
    specs: Mapping[Projection, CodecSpec], method: Mapping[str, Any], gradient: Gradient = "none", tokens: int = 1024
) -> Probe:
    """Swap the projections named in `specs`; `method` is {method, method_options, weighting}."""
    forms = {p: asdict(specs[p]) if p in specs else None for p in PROJECTIONS}
    return {"kind": "swap", "forms": forms, "method": dict(method), "gradient": gradient, "tokens": tokens}


def needs(method: Mapping[str, Any], gradient: Gradient) -> frozenset[str]:
    """The statistics that such probes read."""
    found = {"count", "inputs", "top_k_index", "top_k_weights"}
    if gradient != "none":
        found.add(f"{gradient}_gradient")
    if Solver.named(method["method"]).needs_hessian:
        found |= {"gram_layer", "gram_mid_layer"}
    return frozenset(found)


def measure(layer: LayerWeights, probes: Sequence[Probe], context: PassContext) -> list[Any]:
    """`{figure: [E]}` for each probe; `weighted` and `directed` only with a gradient."""
    if context.statistics is None:
        raise CalibrationError(f"Swapping experts of layer {layer.index} needs calibration statistics; there are none.")
    totals = np.zeros((len(probes), len(FIGURES), len(layer.experts)))
    for settings in dict.fromkeys((p["gradient"], p["tokens"]) for p in probes):
        places = [i for i, p in enumerate(probes) if (p["gradient"], p["tokens"]) == settings]
        for expert, weights in enumerate(layer.experts):
            matrices = {projection: dense(weight) for projection, weight in weights.items()}
            sample = _Sample.of(context.statistics, expert, *settings)
            swaps = [_Swap.of(probes[i]) for i in places]
            totals[places, :, expert] = _errors(matrices, swaps, sample, context.statistics, expert)
    shown = [FIGURES if p["gradient"] != "none" else FIGURES[:1] for p in probes]
    return [
        {name: total[FIGURES.index(name)].tolist() for name in names}
        for total, names in zip(totals, shown, strict=True)
    ]


@dataclass(frozen=True)
class _Swap:
    """A probe, parsed."""

    forms: Mapping[Projection, CodecSpec | None]
    method: str

    @classmethod
    def of(cls, probe: Probe) -> _Swap:
        from moecompress.core.hashing import canonical_json

        forms = {p: parse_spec(form) if form else None for p, form in probe["forms"].items()}
        return cls(forms, canonical_json(probe["method"]))


@dataclass(frozen=True)
class _Sample:
    """The tokens of an expert that are looked at: `share` scales their sum to a mean over all calibration tokens."""

    rows: np.ndarray
    share: float
    gradient: Gradient

    @classmethod
    def of(cls, statistics: LayerStatistics, expert: int, gradient: Gradient, tokens: int) -> _Sample:
        """Evenly spread over those routed to it; with a gradient, over those that have one."""
        routed = statistics.rows(expert)
        known = routed if gradient == "none" else routed[routed < len(statistics.gradient(gradient))]
        if not len(known):
            return cls(routed[:0], 0.0, gradient)
        chosen = known[np.linspace(0, len(known) - 1, min(tokens, len(known))).round().astype(np.intp)]
        return cls(chosen, len(routed) / len(chosen) / statistics.tokens, gradient)


@dataclass
class _Rounder:
    """The matrices of one expert in every form that is asked for, each computed once."""

    weights: Mapping[Projection, torch.Tensor]
    statistics: LayerStatistics
    expert: int
    kept: dict[Any, torch.Tensor] = field(default_factory=dict)

    def inner(self, projection: Projection, swap: _Swap) -> torch.Tensor:
        """Gate or up."""
        return self._rounded(projection, swap, None)

    def down(self, swap: _Swap) -> torch.Tensor:
        """Down, fitted to what the rounded gate and up make of the tokens when the method looks at its inputs."""
        solver, _ = _method(swap.method)
        return self._rounded("down", swap, (swap.forms["gate"], swap.forms["up"]) if solver.needs_hessian else None)

    def _rounded(self, projection: Projection, swap: _Swap, inputs: Any) -> torch.Tensor:
        form = swap.forms[projection]
        if form is None:
            return self.weights[projection]
        key = (projection, form, swap.method, inputs)
        if key not in self.kept:
            solver, weighting = _method(swap.method)
            hessian = self._hessian(projection, swap, weighting) if solver.needs_hessian else None
            self.kept[key] = rounded_values(self.weights[projection], form, solver, hessian)
        return self.kept[key]

    def _hessian(self, projection: Projection, swap: _Swap, weighting: Any) -> torch.Tensor:
        hessians = ExpertHessians(self.statistics, weighting)
        if projection != "down":
            return hessians.inner(self.expert)
        gate = self.inner("gate", swap) if "gate" in self.weights else None
        return hessians.middle(self.expert, gate, self.inner("up", swap))


def _method(text: str) -> tuple[Solver, Any]:
    import json

    plain = json.loads(text)
    return Solver.named(plain["method"], plain.get("method_options")), plain.get("weighting", "routing")


def _errors(
    weights: Mapping[Projection, torch.Tensor],
    swaps: Sequence[_Swap],
    sample: _Sample,
    statistics: LayerStatistics,
    expert: int,
) -> np.ndarray:
    """`[probes, figures]` of one expert."""
    totals = np.zeros((len(swaps), len(FIGURES)))
    if not len(sample.rows):
        return totals
    rounder = _Rounder(weights, statistics, expert)
    for first in range(0, len(sample.rows), _ROWS):
        rows = sample.rows[first : first + _ROWS]
        batch = _Batch(weights, statistics, statistics.inputs(rows))
        exact = batch.output(weights.get("gate"), weights["up"], weights["down"])
        routed = statistics.routing_weights(expert, rows)[:, None]
        gradient = None if sample.gradient == "none" else statistics.gradient_rows(sample.gradient, rows)
        for index, swap in enumerate(swaps):
            gate = rounder.inner("gate", swap) if "gate" in weights else None
            made = batch.output(gate, rounder.inner("up", swap), rounder.down(swap))
            totals[index] += _figures((exact - made) * routed, gradient)
    return totals * sample.share


def _figures(difference: torch.Tensor, gradient: torch.Tensor | None) -> list[float]:
    plain = float(difference.square().sum(dtype=torch.float64))
    if gradient is None:
        return [plain, 0.0, 0.0]
    pushed = difference * gradient
    weighted = float(pushed.square().sum(dtype=torch.float64))
    return [plain, weighted, float(pushed.sum(1, dtype=torch.float64).square().sum())]


class _Batch:
    """Some tokens through one expert in many forms; equal steps are computed once."""

    def __init__(
        self, weights: Mapping[Projection, torch.Tensor], statistics: LayerStatistics, inputs: torch.Tensor
    ) -> None:
        self._activation = statistics.activation
        self._inputs = inputs
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}

    def output(self, gate: torch.Tensor | None, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """The expert's output `[n, H]` before the router's weight."""
        return self._once((id(gate), id(up), id(down)), lambda: self._hidden(gate, up) @ down.mT)

    def _hidden(self, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        return self._once(
            (id(gate), id(up)),
            lambda: gated(None if gate is None else self._raised(gate), self._raised(up), self._activation),
        )

    def _raised(self, matrix: torch.Tensor) -> torch.Tensor:
        return self._once((id(matrix),), lambda: self._inputs @ matrix.mT)

    def _once(self, key: tuple[int, ...], compute: Any) -> torch.Tensor:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


SENSITIVITY = Sensitivity(measure)
