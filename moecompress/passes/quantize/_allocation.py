"""Bits that an allocator chooses: what it wants measured, its decision as the pass's plan, and the plan read back.

The plan is a plain value and goes into the manifest: the stored forms by name, for every layer the form of each
expert's gate, up and down, the record bytes that follow, and what the allocator predicted. From headers alone, an
allocator that measures cannot decide yet; the plan then stands in with bits drawn by lot that use up the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.table import parse_spec
from moecompress.core.hashing import canonical_json
from moecompress.core.types import PROJECTIONS, MoeLayer, Projection
from moecompress.passes.allocate._candidates import candidates_of
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Integers, Probe
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.allocate.random import raised_in_order
from moecompress.passes.allocate.table import allocator_named
from moecompress.passes.base import LayerWeights, Survey
from moecompress.passes.quantize._expert import as_affine
from moecompress.passes.quantize._options import QuantizeOptions

Round = Callable[[LayerWeights, Sequence[Mapping[Projection, AffineSpec] | None]], LayerWeights]


class BitChoice:
    """The allocator of a pass's options on a model's layers."""

    def __init__(
        self,
        bits: AllocationOptions,
        options: QuantizeOptions,
        method: Mapping[str, Any],
        layers: Mapping[int, MoeLayer],
    ) -> None:
        self._bits = bits
        self._allocator: Allocator = allocator_named(bits.allocate)
        grid = self._allocator.grid(bits, len(bits.levels(options.group_size)))
        self.candidates = candidates_of(bits, grid, options.group_size, layers, method)

    def probes(self) -> Mapping[int, Sequence[Probe]]:
        """What is to be measured of each layer."""
        return self._allocator.probes(self.candidates, self._bits)

    def plan(self, survey: Survey | None, round_experts: Round) -> dict[str, Any]:
        """The decision, or without a survey its stand-in. `round_experts` gives a layer's experts the forms listed."""
        probes = self.probes()
        if survey is None and (probes or self._allocator.needs(self._bits, self.candidates.method)):
            return self._forecast()
        answers = {
            layer: {canonical_json(p): a for p, a in zip(asked, survey.answers[layer], strict=True)}
            for layer, asked in probes.items()
            if survey is not None
        }
        findings = Findings(answers, self._evaluate(survey, round_experts))
        found = self._allocator.choose(self.candidates, self._bits, findings)
        return _plain(self.candidates, self._bits.allocate, found)

    def _forecast(self) -> dict[str, Any]:
        experts, choices = self.candidates.shape
        order = np.tile(np.arange(experts), choices - 1)
        found = Allocation(raised_in_order(self.candidates, order))
        plan = _plain(self.candidates, self._bits.allocate, found)
        slack = max(0, self._most() - plan["bytes"])
        return {**plan, "exact": False, "slack": slack, "summary": f"at most {plan['bytes'] + slack} bytes of experts"}

    def _most(self) -> int:
        """The most record bytes that any allocation within the limit can take."""
        largest = int(self.candidates.bytes.max(axis=1).sum())
        limit = self.candidates.limit
        if limit is None:
            return largest
        if self._bits.count == "effective" or self._bits.size is not None:
            return min(largest, limit)
        over = self.candidates.bytes - self.candidates.cost // 8
        return min(largest, limit // 8 + int(over.max(axis=1).sum()))

    def _evaluate(self, survey: Survey | None, round_experts: Round) -> Callable[[Integers, int], float] | None:
        evaluate = survey.evaluate if survey is not None else None
        if evaluate is None:
            return None

        def loss(choice: Integers, tokens: int) -> float:
            forms = {layer: choice[self.candidates.of(layer)].tolist() for layer in self.candidates.layers}

            def change(layer: LayerWeights) -> LayerWeights:
                if layer.index is None or layer.index not in forms:
                    return layer
                specs = [self.candidates.specs(layer.index, c) if c >= 0 else None for c in forms[layer.index]]
                return round_experts(layer, specs)

            return evaluate(change, self._signature(forms), tokens)

        return loss

    def _signature(self, forms: Mapping[int, list[int]]) -> dict[int, Any]:
        """What each layer's experts become, in words that mean the same for every allocator."""
        return {
            layer: [
                {p: spec.key for p, spec in self.candidates.specs(layer, c).items()} if c >= 0 else None for c in row
            ]
            for layer, row in forms.items()
        }


def _plain(candidates: Candidates, allocator: str, found: Allocation) -> dict[str, Any]:
    rows = np.arange(candidates.shape[0])
    size, weights = int(candidates.bytes[rows, found.choice].sum()), int(candidates.weights.sum())
    plan: dict[str, Any] = {
        "allocator": allocator,
        "exact": True,
        "forms": [spec.key for spec in candidates.levels],
        "specs": [asdict(spec) for spec in candidates.levels],
        "layers": {
            str(layer): candidates.assignments[layer][found.choice[candidates.of(layer)]].tolist()
            for layer in candidates.layers
        },
        "bytes": size,
        "bits": 8 * size / weights,
        "limit": candidates.limit,
        "predicted": found.predicted,
        "details": dict(found.details),
    }
    return {"summary": _summary(plan), **plan}


def planned_form(plan: Mapping[str, Any], layer: int, expert: int, projection: Projection) -> AffineSpec:
    """The form that a plan gives one matrix."""
    level = plan["layers"][str(layer)][expert][PROJECTIONS.index(projection)]
    return as_affine(parse_spec(plan["specs"][level]))


def _summary(plan: Mapping[str, Any]) -> str:
    """The decision in a line: how many matrices of each form, effective bits, what was predicted."""
    counts = np.bincount(
        np.concatenate([np.asarray(rows).ravel() for rows in plan["layers"].values()]), minlength=len(plan["forms"])
    )
    forms = ", ".join(f"{count} {form}" for form, count in zip(plan["forms"], counts, strict=True) if count)
    text = f"{plan['allocator']}: {forms}; {plan['bits']:.3f} effective bits per expert weight, {plan['bytes']} bytes"
    if plan["predicted"] is not None:
        text += f"; predicted {plan['predicted']:.5g} {plan['details'].get('unit', '')}".rstrip()
    return text
