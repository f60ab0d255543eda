"""What every pass promises, as checks that a pass of this project or of a third party runs through.

    with tempfile.TemporaryDirectory() as folder:
        check_pass("quantize.experts", tiny_units(Path(folder)))

runs the registered pass of that name over every unit of a tiny real model with statistics collected from it. `check`
takes a `Pass` that is not registered. Each failure is an AssertionError that names the pass and the promise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from moecompress.calibration.collect import collect
from moecompress.calibration.gradients import Labels, collect_gradients
from moecompress.calibration.statistics import LayerStatistics
from moecompress.calibration.store import StatisticsStore
from moecompress.calibration.texts import TokenSet
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.table import codec_of
from moecompress.core.hashing import canonical_json
from moecompress.core.registry import members
from moecompress.core.types import MoeLayer, Role
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource
from moecompress.passes.base import (
    LayerWeights,
    Pass,
    PassContext,
    PassOptions,
    Stage,
    Survey,
    Weight,
    dense,
    expert_parameter,
)
from moecompress.pipeline.units import read_unit, unit_indices
from moecompress.testing.tiny import tiny_model_folder

KEEPS_SHAPES = frozenset({"smooth", "quantize", "tune"})
_SEED = 7


@dataclass(frozen=True)
class Unit:
    """One unit of a model and what calibration knows of it."""

    layer: LayerWeights
    statistics: LayerStatistics | None


def known_passes() -> dict[str, Pass]:
    """Name → pass, for everything registered."""
    return members("moecompress.passes", "PASS", "moecompress.passes")


def tiny_units(folder: Path, family: str = "qwen2_moe", tokens: int = 256) -> list[Unit]:
    """All units of a tiny random model written into `folder`, with statistics and gradients over random tokens."""
    source = TensorSource.open(tiny_model_folder(family, folder / "model"))
    layout = discover(source)
    ids = np.random.default_rng(0).integers(0, source.config["vocab_size"], (tokens // 32, 32), dtype=np.int32)
    drawn = TokenSet.of(ids, "random")
    entry = collect(source, layout, drawn, StatisticsStore(folder / "statistics"))
    for labels in get_args(Labels):
        entry = collect_gradients(source, layout, drawn, entry, tokens, labels)
    return [
        Unit(read_unit(source, layout, index)[0], None if index is None else entry.layer(index))
        for index in unit_indices(layout)
    ]


def check_pass(name: str, units: Sequence[Unit], options: Mapping[str, Any] | None = None) -> None:
    """Every promise of the registered pass `name`, with `options` as a recipe would give them."""
    check(name, known_passes()[name], units, options or {})


def check(name: str, definition: Pass, units: Sequence[Unit], values: Mapping[str, Any]) -> None:
    """The same for a pass that need not be registered."""
    assert definition.stage in get_args(Stage), f"{name}: stage {definition.stage!r} is none of {get_args(Stage)}"
    options = check_options(name, definition, values)
    check_needs(name, definition, options)
    plan = check_plan(name, definition, options, units)
    for unit in units:
        check_unit(name, definition, options, plan, unit)


def check_options(name: str, definition: Pass, values: Mapping[str, Any]) -> PassOptions:
    """Options survive JSON, have a JSON Schema and refuse unknown keys. Returns them."""
    options = definition.options.model_validate(dict(values))
    again = definition.options.model_validate(json.loads(options.model_dump_json()))
    assert again == options, f"{name}: options change on their way through JSON"
    json.dumps(definition.options.model_json_schema())
    with pytest.raises(ValidationError, match="Extra inputs"):
        definition.options.model_validate({**values, "not_an_option": 1})
    for key, field in definition.options.model_fields.items():
        assert field.description, f"{name}: option {key} has no description"
    return options


def check_needs(name: str, definition: Pass, options: PassOptions) -> None:
    """A pass only asks for statistics that `LayerStatistics` has."""
    known = {field.name for field in fields(LayerStatistics)} | set(dir(LayerStatistics))
    unknown = sorted(definition.needs(options) - known)
    assert not unknown, f"{name}: needs {unknown}, which LayerStatistics does not have"


def check_plan(name: str, definition: Pass, options: PassOptions, units: Sequence[Unit]) -> Any:
    """The plan is a plain value and always the same one. Returns it."""
    layers: dict[int, MoeLayer] = {unit.layer.moe.index: unit.layer.moe for unit in units if unit.layer.moe is not None}
    check_forecast(name, definition, options, layers)
    survey = Survey(check_answers(name, definition, options, layers, units))
    text = canonical_json(definition.plan(options, layers, survey))
    assert canonical_json(definition.plan(options, layers, survey)) == text, (
        f"{name}: two plans of the same model differ"
    )
    plan = json.loads(text)
    assert definition.slack(plan) is None, f"{name}: a plan made from measurements is not exact"
    return plan


def check_forecast(name: str, definition: Pass, options: PassOptions, layers: Mapping[int, MoeLayer]) -> None:
    """From headers alone there is a plain plan too, the same every time."""
    text = canonical_json(definition.plan(options, layers, None))
    assert canonical_json(definition.plan(options, layers, None)) == text, f"{name}: two forecasts differ"
    assert (definition.slack(json.loads(text)) or 0) >= 0, f"{name}: negative slack"


def check_answers(
    name: str, definition: Pass, options: PassOptions, layers: Mapping[int, MoeLayer], units: Sequence[Unit]
) -> dict[int, list[Any]]:
    """Answers to probes are plain and repeatable, do not depend on the other probes, and change nothing."""
    by_index = {unit.layer.index: unit for unit in units}
    answers: dict[int, list[Any]] = {}
    for layer, probes in definition.probes(options, layers).items():
        unit = by_index[layer]
        before = deepcopy(_weights(unit.layer))
        context = PassContext(_SEED, unit.statistics)
        answers[layer] = json.loads(canonical_json(definition.measure(unit.layer, probes, context)))
        canonical_json(list(probes))
        alone = [definition.measure(unit.layer, [probe], context)[0] for probe in probes]
        assert canonical_json(alone) == canonical_json(answers[layer]), f"{name}: an answer depends on other probes"
        _check_same(_weights(unit.layer), before, f"{name}: measuring changed its input")
    return answers


def check_unit(name: str, definition: Pass, options: PassOptions, plan: Any, unit: Unit) -> None:
    """One application: pure, repeatable, honest about what it changed, and as planned."""
    before = deepcopy(_weights(unit.layer))
    notes: list[Mapping[str, Any]] = []
    context = PassContext(_SEED, unit.statistics if definition.needs(options) else None, notes.append)
    after = definition.apply(unit.layer, options, plan, context)
    _check_same(_weights(unit.layer), before, f"{name}: changed its input")
    again = definition.apply(unit.layer, options, plan, context)
    _check_same(_weights(again), _weights(after), f"{name}: two applications with the same seed differ")
    assert notes[: len(notes) // 2] == notes[len(notes) // 2 :], f"{name}: notes of two applications differ"
    canonical_json(notes)
    check_claims(name, unit.layer, after)
    check_values(name, definition, unit.layer, after)
    check_specs(name, definition, options, plan, unit.layer, after)


def check_claims(name: str, before: LayerWeights, after: LayerWeights) -> None:
    """What differs is claimed by this pass, and nothing else is."""
    old, new = _weights(before), _weights(after)
    changed = {key for key in new if key not in old or not _same(old[key], new[key])}
    claimed = {key for key, value in after.claims.items() if value == name}
    assert set(after.claims) == claimed | set(before.claims), f"{name}: claims in another pass's name"
    assert claimed == changed, (
        f"{name}: claims {sorted(claimed - changed)} unchanged, hides {sorted(changed - claimed)}"
    )


def check_values(name: str, definition: Pass, before: LayerWeights, after: LayerWeights) -> None:
    """All values are finite and codecs accept them; passes that keep shapes do."""
    old, new = _weights(before), _weights(after)
    for key, weight in new.items():
        assert bool(torch.isfinite(dense(weight)).all()), f"{name}: {key} is not finite"
        if isinstance(weight, EncodedWeight):
            codec_of(weight.spec).pack(weight)
    if definition.stage in KEEPS_SHAPES:
        shapes = {key: tuple(weight.shape) for key, weight in old.items()}
        assert {key: tuple(weight.shape) for key, weight in new.items()} == shapes, f"{name}: changed shapes"


def check_specs(
    name: str, definition: Pass, options: PassOptions, plan: Any, before: LayerWeights, after: LayerWeights
) -> None:
    """`planned_spec` foretold the codec of every parameter, and None for those left as tensors."""
    roles: dict[str, Role] = {key: item.role for key, item in before.trunk.items()}
    for key, weight in _weights(after).items():
        made = weight.spec if isinstance(weight, EncodedWeight) else None
        planned = definition.planned_spec(options, plan, key, roles.get(key), tuple(weight.shape))
        assert planned == made, f"{name}: planned {planned} for {key}, made {made}"


def _weights(layer: LayerWeights) -> dict[str, Weight]:
    """Every parameter of a unit by its ledger name."""
    found: dict[str, Weight] = {key: item.weight for key, item in layer.trunk.items()}
    for expert, weights in enumerate(layer.experts):
        for projection, weight in weights.items():
            found[expert_parameter(layer.index or 0, expert, projection)] = weight
    return found


def _check_same(one: Mapping[str, Weight], other: Mapping[str, Weight], message: str) -> None:
    assert set(one) == set(other), f"{message}: {sorted(set(one) ^ set(other))}"
    for key in one:
        assert _same(one[key], other[key]), f"{message}: {key}"


def _same(one: Weight, other: Weight) -> bool:
    """Whether two weights are equal byte for byte."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and _same_tensors(one, other)
    return one.spec == other.spec and all(
        array.dtype == other.arrays[name].dtype and array.tobytes() == other.arrays[name].tobytes()
        for name, array in one.arrays.items()
    )


def _same_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
