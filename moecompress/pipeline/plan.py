"""What a run would do, from headers alone: exact weight bytes, statistics, memory, disk and time. Nothing is written.

Bytes: every parameter's final form is known from the recipe, each codec gives exact bytes for a shape, and the artifact
floor gives record and file layout, so weight files are exact. Memory and time are estimates: memory from the largest
layer in float32 with its statistics, time from the floating-point work and this machine's measured matrix speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecompress.artifact.priors import priors_file_bytes
from moecompress.artifact.records import Planned
from moecompress.artifact.sizes import planned_weight_bytes
from moecompress.calibration.collect import disk_bytes
from moecompress.calibration.gradients import gradient_disk_bytes
from moecompress.calibration.texts import calibration_tokens
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.dense import DenseSpec
from moecompress.core.errors import BudgetError
from moecompress.core.types import PROJECTIONS, Projection, Role
from moecompress.core.units import format_size
from moecompress.models.discover import ModelLayout
from moecompress.models.source import TensorSource
from moecompress.passes.base import expert_parameter
from moecompress.pipeline.assets import source_assets
from moecompress.pipeline.decide import Decisions
from moecompress.pipeline.device import DeviceNeeds, Experts, Trunk, device_needs
from moecompress.pipeline.encode import dense_dtype
from moecompress.pipeline.statistics import gradients, needed
from moecompress.pipeline.units import expert_dtype
from moecompress.recipe.load import LoadedRecipe

_BASE_BYTES = 420 << 20


@dataclass(frozen=True)
class PassEffect:
    """What one pass will change: how many parameters (weights), and their effective bits afterwards."""

    name: str
    weights: int
    bits_per_weight: float


@dataclass(frozen=True)
class Plan:
    """The forecast of a run. Bytes of weights and assets are exact, or an upper bound when `exact` is false: bits that
    are still to be chosen by measurement. `peak_memory_bytes` and `seconds` are estimates."""

    model_type: str
    parameters: int
    source_bytes: int
    weight_bytes: int
    exact: bool
    asset_bytes: int
    bits_per_weight: float
    effects: tuple[PassEffect, ...]
    kept: Mapping[str, int]
    statistics: tuple[str, ...]
    calibration_tokens: int
    statistics_disk_bytes: int
    peak_memory_bytes: int
    seconds: float
    device: DeviceNeeds | None

    @property
    def artifact_bytes(self) -> int:
        """Weights and assets; the manifest and the model card come on top (a few KiB per layer)."""
        return self.weight_bytes + self.asset_bytes


@dataclass(frozen=True)
class Fate:
    """The planned final form of one parameter."""

    name: str
    shape: tuple[int, ...]
    role: Role | None
    spec: CodecSpec
    changed_by: str | None


def planned_fates(
    recipe: LoadedRecipe, source: TensorSource, layout: ModelLayout, plans: list[Any]
) -> dict[int | None, list[Fate]]:
    """Unit → final form of each of its parameters, in the order they are written."""
    units: dict[int | None, list[Fate]] = {None: [], **{index: [] for index in range(layout.layers)}}
    for tensor in layout.trunk:
        kept = DenseSpec(dtype=dense_dtype(tensor.dtype))
        units[tensor.layer].append(_fate(recipe, plans, tensor.name, tuple(tensor.shape), tensor.role, kept))
    for index, moe in layout.moe.items():
        kept = DenseSpec(dtype=dense_dtype(expert_dtype(source, layout, index)))
        for expert in range(moe.experts):
            for projection in PROJECTIONS:
                name = expert_parameter(index, expert, projection)
                units[index].append(_fate(recipe, plans, name, moe.projection_shape(projection), None, kept))
    return units


def _fate(
    recipe: LoadedRecipe, plans: list[Any], name: str, shape: tuple[int, ...], role: Role | None, kept: CodecSpec
) -> Fate:
    spec, changed_by = kept, None
    for step, plan in zip(recipe.steps, plans, strict=True):
        planned = step.definition.planned_spec(step.options, plan, name, role, shape)
        if planned is not None:
            spec, changed_by = planned, step.name
    return Fate(name, shape, role, spec, changed_by)


def make_plan(recipe: LoadedRecipe, source: TensorSource, layout: ModelLayout, cache: Path | None = None) -> Plan:
    """The forecast of running `recipe` on this checkpoint.

    Reads headers only, unless `cache` may hold the decisions of an earlier run: then also the calibration text, whose
    tokens are part of their name.
    """
    plans = Decisions(recipe, source, layout, cache or Path()).forecast(_tokens_hash(recipe, source))
    slack = [step.definition.slack(plan) for step, plan in zip(recipe.steps, plans, strict=True)]
    units = planned_fates(recipe, source, layout, plans)
    fates = [fate for unit in units.values() for fate in unit]
    parameters = sum(_count(fate.shape) for fate in fates)
    placed = _placed(units)
    weight_bytes = planned_weight_bytes(*placed) + sum(bytes_ or 0 for bytes_ in slack)
    needs = sorted(needed(recipe))
    tokens = recipe.recipe.calibration.tokens if needs else 0
    return Plan(
        model_type=layout.model_type,
        parameters=parameters,
        source_bytes=sum(source.nbytes(name) for name in source.names),
        weight_bytes=weight_bytes,
        exact=all(bytes_ is None for bytes_ in slack),
        asset_bytes=_asset_bytes(source, layout, priors=bool(needs)),
        bits_per_weight=8 * weight_bytes / parameters,
        effects=tuple(_effect(step.name, fates) for step in recipe.steps),
        kept=_kept(fates),
        statistics=tuple(needs),
        calibration_tokens=tokens,
        statistics_disk_bytes=_disk(recipe, layout, tokens),
        peak_memory_bytes=_peak_memory(units, layout, tokens, recipe),
        seconds=_seconds(layout, fates, tokens, recipe),
        device=device_needs(layout.model_type, source.config, *placed),
    )


def _tokens_hash(recipe: LoadedRecipe, source: TensorSource) -> Callable[[], str | None]:
    """The calibration tokens' hash, computed when it is asked for."""
    return lambda: calibration_tokens(recipe.recipe.calibration, source).hash if needed(recipe) else None


def _disk(recipe: LoadedRecipe, layout: ModelLayout, tokens: int) -> int:
    """Statistics and output gradients."""
    if not tokens:
        return 0
    taken = min(tokens, recipe.recipe.calibration.gradient_tokens)
    return disk_bytes(layout, tokens) + len(gradients(recipe)) * gradient_disk_bytes(layout, taken)


def check_budget(recipe: LoadedRecipe, source: TensorSource, layout: ModelLayout, cache: Path | None = None) -> None:
    """Raises BudgetError when the recipe's size budget cannot be met by its passes."""
    limit = recipe.recipe.budget.size
    if limit is None:
        return
    planned = make_plan(recipe, source, layout, cache).artifact_bytes
    if planned > limit:
        raise BudgetError(
            f"{recipe.path}: budget.size is {format_size(limit)} ({limit} bytes), but these passes give "
            f"{format_size(planned)} ({planned} bytes). Use fewer bits or larger groups, or raise it to {planned}."
        )


def _asset_bytes(source: TensorSource, layout: ModelLayout, priors: bool) -> int:
    copied = sum(path.stat().st_size for path in source_assets(source).values())
    return copied + (priors_file_bytes([moe.experts for moe in layout.moe.values()]) if priors else 0)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _placed(units: Mapping[int | None, list[Fate]]) -> tuple[Trunk, Experts]:
    """Codec and shape of every trunk tensor by name, and of every matrix of the experts by layer."""
    trunk: dict[str, Planned] = {}
    experts: dict[int, list[dict[Projection, Planned]]] = {}
    for index, fates in units.items():
        routed = [fate for fate in fates if fate.role is None]
        trunk.update({fate.name: (fate.spec, fate.shape) for fate in fates if fate.role is not None})
        if routed and index is not None:
            groups = [routed[i : i + len(PROJECTIONS)] for i in range(0, len(routed), len(PROJECTIONS))]
            experts[index] = [
                {p: (fate.spec, fate.shape) for p, fate in zip(PROJECTIONS, group, strict=True)} for group in groups
            ]
    return trunk, experts


def _effect(name: str, fates: list[Fate]) -> PassEffect:
    from moecompress.codecs.table import codec_of

    mine = [fate for fate in fates if fate.changed_by == name]
    weights = sum(_count(fate.shape) for fate in mine)
    size = sum(codec_of(fate.spec).nbytes(fate.spec, fate.shape) for fate in mine)
    return PassEffect(name, weights, 8 * size / weights if weights else 0.0)


def _kept(fates: list[Fate]) -> dict[str, int]:
    kept: dict[str, int] = {}
    for fate in fates:
        if fate.changed_by is None:
            role = fate.role or "expert"
            kept[role] = kept.get(role, 0) + _count(fate.shape)
    return dict(sorted(kept.items()))


def _peak_memory(units: Mapping[int | None, list[Fate]], layout: ModelLayout, tokens: int, recipe: LoadedRecipe) -> int:
    """Interpreter with torch, the largest unit in float32 and in codes, its Grams, and one batch of activations.

    A layer run with gradients keeps what its backward pass needs: several values for each hidden and expert channel.
    The head's keeps the logits of a sequence thrice.
    """
    length = recipe.recipe.calibration.sequence_length
    largest = max(sum(_count(fate.shape) for fate in fates) for fates in units.values())
    moe = max(layout.moe.values(), key=lambda layer: layer.experts * layer.width * layer.hidden)
    grams = 4 * moe.experts * max(moe.hidden**2, moe.width**2) * 3 if tokens else 0
    activations = 4 * tokens * moe.hidden + 64 * length * (moe.hidden + moe.width)
    if tokens and gradients(recipe):
        vocabulary = max(fate.shape[0] for fate in units[None] if len(fate.shape) == 2)
        batch = max(1024, length)
        activations += 4 * batch * (24 * moe.hidden + 6 * moe.top_k * moe.width) + 3 * 4 * length * vocabulary
    return _BASE_BYTES + 7 * largest + grams + activations


def _seconds(layout: ModelLayout, fates: list[Fate], tokens: int, recipe: LoadedRecipe) -> float:
    """Forward passes of calibration, plus error propagation over every quantized matrix, at this machine's speed.

    An output gradient is two forward passes and two backward ones over its tokens.
    """
    speed = _flops_per_second()
    active = sum(3 * moe.top_k * moe.hidden * moe.width for moe in layout.moe.values())
    active += sum(_count(tensor.shape) for tensor in layout.trunk if tensor.layer is not None)
    forward = 2 * 2 * active * tokens
    forward += len(gradients(recipe)) * 8 * active * min(tokens, recipe.recipe.calibration.gradient_tokens)
    solve = sum(40 * _count(fate.shape) * fate.shape[-1] for fate in fates if fate.changed_by and tokens)
    return (forward + solve) / speed + 2e-8 * sum(_count(fate.shape) for fate in fates)


def _flops_per_second() -> float:
    import torch

    matrix = torch.ones(512, 512)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * 512**3 / (time.perf_counter() - start)
