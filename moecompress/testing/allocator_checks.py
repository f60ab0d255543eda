"""What every allocator promises, as checks that an allocator of this project or of a third party runs through.

    with tempfile.TemporaryDirectory() as folder:
        check_allocator("gemq", tiny_units(Path(folder)))

measures what the allocator asks for on a tiny real model and lets it choose under several budgets. `check` takes an
`Allocator` that is not registered. Each failure is an AssertionError that names the allocator and the promise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from moecompress.calibration.statistics import LayerStatistics
from moecompress.core.errors import CalibrationError, OptionError
from moecompress.core.hashing import canonical_json
from moecompress.core.types import PROJECTIONS
from moecompress.passes.allocate._candidates import candidates_of
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Integers
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.allocate.table import allocator_named
from moecompress.passes.base import PassContext
from moecompress.passes.sensitivity.base import measure
from moecompress.testing.pass_checks import Unit

_METHOD: Mapping[str, Any] = {"method": "rtn", "method_options": {}, "weighting": "none"}
_CHOICES = (2, 3, 4)
_GROUP: Literal[32] = 32
_AVERAGES = (2.4, 3.2, 4.0)  # bare bits, up to the largest choice


def check_allocator(name: str, units: Sequence[Unit], values: Mapping[str, Any] | None = None) -> None:
    """Every promise of the registered allocator `name`, with further options as a recipe would give them."""
    check(name, allocator_named(name), units, values or {})


def check(name: str, allocator: Allocator, units: Sequence[Unit], values: Mapping[str, Any]) -> None:
    """The same for an allocator that need not be registered."""
    model = Measured(units)
    values = {"allocate": name, "choices": _CHOICES, **values}
    check_options(name, allocator, values)
    check_needs(name, allocator, values)
    bare = {**values, "count": "nominal"}
    found = [check_budget(name, allocator, model, {**bare, "average": average}) for average in _AVERAGES]
    predicted = [allocation.predicted for allocation in found]
    for less, more in pairwise(predicted):
        if less is not None and more is not None:
            assert more <= less + 1e-9 * abs(less), f"{name}: predicts more loss with a larger budget, {predicted}"
    check_budget(name, allocator, model, {**values, "size": "160KiB"})
    check_floors(name, allocator, model, values)
    check_refusals(name, allocator, model, values)


def check_options(name: str, allocator: Allocator, values: Mapping[str, Any]) -> None:
    """Options survive JSON, refuse unknown keys, are described, and want exactly one budget."""
    options = allocator.options.model_validate({**values, "average": 4.0})
    assert allocator.options.model_validate(json.loads(options.model_dump_json())) == options, (
        f"{name}: JSON changes options"
    )
    with pytest.raises(ValidationError, match="Extra inputs"):
        allocator.options.model_validate({**values, "average": 4.0, "not_an_option": 1})
    for wrong in (dict(values), {**values, "average": 4.0, "size": 100}):
        with pytest.raises(ValidationError, match="one budget"):
            allocator.options.model_validate(wrong)
    for key, field in allocator.options.model_fields.items():
        assert field.description, f"{name}: option {key} has no description"


def check_needs(name: str, allocator: Allocator, values: Mapping[str, Any]) -> None:
    """An allocator only asks for statistics that there are."""
    known = {field.name for field in fields(LayerStatistics)} | set(dir(LayerStatistics))
    unknown = sorted(allocator.needs(allocator.options.model_validate({**values, "average": 4.0}), _METHOD) - known)
    assert not unknown, f"{name}: needs {unknown}, which LayerStatistics does not have"


def check_budget(name: str, allocator: Allocator, model: Measured, values: Mapping[str, Any]) -> Allocation:
    """One decision: within the limit, one assignment an expert, plain details, and the same every time."""
    options = allocator.options.model_validate(dict(values))
    candidates = frozen_candidates(allocator, options, model)
    findings = model.findings(allocator, options, candidates)
    found = allocator.choose(candidates, options, findings)
    experts, choices = candidates.shape
    assert found.choice.shape == (experts,), f"{name}: {found.choice.shape} choices for {experts} experts"
    assert found.choice.min() >= 0 and found.choice.max() < choices, f"{name}: a choice that was not offered"
    cost = int(candidates.cost[np.arange(experts), found.choice].sum())
    assert candidates.limit is None or cost <= candidates.limit, f"{name}: {cost} exceeds {candidates.limit} ({values})"
    canonical_json([found.predicted, dict(found.details)])
    again = allocator.choose(candidates, options, findings)
    assert (again.choice == found.choice).all() and again.predicted == found.predicted, f"{name}: two decisions differ"
    return found


def check_floors(name: str, allocator: Allocator, model: Measured, values: Mapping[str, Any]) -> None:
    """Floors of a role and of the first layer hold for every expert."""
    floors = {"down": 3, "first_layers": {1: 4}}
    options = allocator.options.model_validate({**values, "size": "1MiB", "floors": floors})
    candidates = frozen_candidates(allocator, options, model)
    found = allocator.choose(candidates, options, model.findings(allocator, options, candidates))
    first = min(candidates.layers)
    for layer, choice in zip(candidates.layer, found.choice, strict=True):
        for projection, spec in candidates.specs(int(layer), int(choice)).items():
            least = 4 if layer == first else 3 if projection == "down" else 2
            assert spec.bits >= least, (
                f"{name}: {projection} of layer {layer} has {spec.bits} bits, the floor is {least}"
            )


def check_refusals(name: str, allocator: Allocator, model: Measured, values: Mapping[str, Any]) -> None:
    """Budgets that cannot be met and findings that are missing are refused by name."""
    for budget in ({"average": 2.1}, {"size": "5KiB"}):
        options = allocator.options.model_validate({**values, **budget})
        with pytest.raises(OptionError, match=next(iter(budget))):
            frozen_candidates(allocator, options, model)
    options = allocator.options.model_validate({**values, "size": "1MiB"})
    candidates = frozen_candidates(allocator, options, model)
    if allocator.probes(candidates, options):
        with pytest.raises(CalibrationError, match="not measured"):
            allocator.choose(candidates, options, Findings({layer: {} for layer in candidates.layers}))


def frozen_candidates(allocator: Allocator, options: AllocationOptions, model: Measured) -> Candidates:
    """The candidates of the model; writing to them fails."""
    grid = allocator.grid(options, len(options.levels(_GROUP)))
    assert all(len(row) == len(PROJECTIONS) for row in grid), f"{options.allocate}: an assignment is gate, up and down"
    found = candidates_of(options, grid, _GROUP, model.layers, _METHOD)
    for array in (found.layer, found.expert, found.cost, found.bytes, *found.assignments.values()):
        array.setflags(write=False)
    return found


class Measured:
    """A model's units, with what was measured of them: each probe once."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.layers = {unit.layer.moe.index: unit.layer.moe for unit in units if unit.layer.moe is not None}
        self._units = {unit.layer.index: unit for unit in units}
        self._known: dict[int, dict[str, Any]] = {layer: {} for layer in self.layers}

    def findings(self, allocator: Allocator, options: AllocationOptions, candidates: Candidates) -> Findings:
        """Answers to what the allocator asks for, and losses that fall with size as a stand-in for evaluations."""
        for layer, probes in allocator.probes(candidates, options).items():
            missing = [probe for probe in probes if canonical_json(probe) not in self._known[layer]]
            unit = self._units[layer]
            found = measure(unit.layer, missing, PassContext(0, unit.statistics))
            self._known[layer] |= {canonical_json(probe): answer for probe, answer in zip(missing, found, strict=True)}
        size = candidates.bytes.astype(float)
        lost = np.arange(1, len(size) + 1)[:, None] * 4.0 ** -(size / size.mean() * 3)

        def evaluate(choice: Integers, tokens: int) -> float:
            rows = np.flatnonzero(choice >= 0)
            return 2.0 + 1e-3 * float(lost[rows, choice[rows]].sum())

        return Findings(self._known, evaluate)
