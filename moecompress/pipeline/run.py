"""A run: the recipe's passes over one unit after the other, each finished unit on disk before the next begins.

Peak memory is one layer and its statistics. Units are independent given the statistics of the original model, so a run
that was killed goes on with the units that have no journal entry and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy

from moecompress import __version__
from moecompress.artifact.builder import ArtifactBuilder
from moecompress.artifact.manifest import PRIORS, Manifest
from moecompress.artifact.reader import read_manifest
from moecompress.calibration.statistics import LayerStatistics
from moecompress.core.errors import GateError, UsageError
from moecompress.core.hashing import fingerprint
from moecompress.core.progress import Progress, Silent
from moecompress.models.discover import ModelLayout, discover
from moecompress.models.source import TensorSource
from moecompress.passes.base import LayerWeights, PassContext
from moecompress.pipeline.assets import source_assets
from moecompress.pipeline.decide import Decisions, described
from moecompress.pipeline.encode import keep
from moecompress.pipeline.ledger import check_sources, fates, grouped
from moecompress.pipeline.plan import check_budget
from moecompress.pipeline.state import RunState, UnitEntry, unit_name
from moecompress.pipeline.statistics import Statistics, gather
from moecompress.pipeline.units import dtype_name, parameters, read_unit, unit_indices
from moecompress.recipe.load import LoadedRecipe

_NOT_IN_BYTES = ("description", "model", "evaluate", "gates", "budget")


@dataclass(frozen=True)
class RunResult:
    """What a run made: the artifact's folder and manifest, and how many units an earlier attempt had finished."""

    artifact: Path
    manifest: Manifest
    resumed_units: int


def run_recipe(
    recipe: LoadedRecipe,
    model: Path,
    out: Path,
    cache: Path,
    progress: Progress | None = None,
    finish: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Compress `model` by `recipe` into the new folder `out`; statistics are kept in and reused from `cache`.

    `finish` is called with the sealed artifact while the journal still exists: a run killed inside it goes on there.
    Raises UsageError when `out` exists and is not what this very run had sealed, SourceError for a bad checkpoint,
    CoverageError when a tensor would be lost.
    """
    progress = progress or Silent()
    source = TensorSource.open(model)
    layout = discover(source)
    check_budget(recipe, source, layout, cache)
    identity = _identity(recipe, source)
    if out.exists() and not RunState.exists(out, fingerprint(identity)):
        raise UsageError(f"{out} exists; the artifact is written to a new folder. Remove it or give another --out.")
    state = RunState(out, fingerprint(identity))
    if out.exists():
        result = RunResult(out, read_manifest(out), layout.layers + 1)
    else:
        result = _compress(recipe, source, layout, identity, state, cache, progress)
    try:
        if finish is not None:
            finish(result)
    except GateError:
        state.remove()
        raise
    state.remove()
    return result


def _compress(
    recipe: LoadedRecipe,
    source: TensorSource,
    layout: ModelLayout,
    identity: dict[str, Any],
    state: RunState,
    cache: Path,
    progress: Progress,
) -> RunResult:
    for other in state.unfinished_others():
        progress.log(f"Unfinished work of another recipe, model or version is left alone: {other}")
    statistics = gather(recipe, source, layout, cache, progress)

    def context(position: int, name: str, index: int | None) -> PassContext:
        return _context(recipe, position, name, index, statistics.layer(index), [])

    plans = Decisions(recipe, source, layout, cache).make(state, statistics, context, progress)
    builder = ArtifactBuilder(state.pieces)
    entries, resumed = [], 0
    progress.start("compress", layout.layers + 1, "layers")
    for index in unit_indices(layout):
        entry = state.entry(unit_name(index))
        if entry is None:
            entry = _run_unit(recipe, plans, source, layout, index, statistics, builder, progress)
            state.finish(entry)
        else:
            resumed += 1
        entries.append(entry)
        progress.advance()
    progress.finish()
    check_sources(source.names, [name for entry in entries for name in entry.sources])
    manifest = _seal(builder, state.out, source, layout, identity, statistics, entries, recipe, plans)
    return RunResult(state.out, manifest, resumed)


def _run_unit(
    recipe: LoadedRecipe,
    plans: list[Any],
    source: TensorSource,
    layout: ModelLayout,
    index: int | None,
    statistics: Statistics,
    builder: ArtifactBuilder,
    progress: Progress,
) -> UnitEntry:
    layer, sources = read_unit(source, layout, index)
    notes: list[Mapping[str, Any]] = []
    layer_statistics = statistics.layer(index)
    for position, (step, plan) in enumerate(zip(recipe.steps, plans, strict=True)):
        context = _context(recipe, position, step.name, index, layer_statistics, notes)
        layer = step.definition.apply(layer, step.options, plan, context)
    outcome = fates(parameters(layer), layer.claims)
    builder.put_trunk(unit_name(index), {name: keep(item.weight, item.role) for name, item in layer.trunk.items()})
    if layer.experts and index is not None:
        builder.put_experts(index, [{p: keep(w) for p, w in expert.items()} for expert in layer.experts])
    _log_unit(layer, notes, progress)
    return UnitEntry(unit_name(index), tuple(sources), outcome, tuple(notes))


def _context(
    recipe: LoadedRecipe,
    position: int,
    name: str,
    index: int | None,
    statistics: LayerStatistics | None,
    notes: list[Mapping[str, Any]],
) -> PassContext:
    key = f"{recipe.recipe.seed}/{position}/{index}".encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:6], "little")
    return PassContext(seed, statistics, lambda entry: notes.append({"pass": name, **entry}))


def _log_unit(layer: LayerWeights, notes: list[Mapping[str, Any]], progress: Progress) -> None:
    for note in notes:
        summary = note.get("summary")
        if summary:
            progress.log(f"{unit_name(layer.index)}: {note['pass']}: {summary}", note)


def _identity(recipe: LoadedRecipe, source: TensorSource) -> dict[str, Any]:
    """Everything the artifact's bytes depend on."""
    import torch

    return {
        "source": source.content_hash(),
        "recipe": {key: value for key, value in recipe.resolved.items() if key not in _NOT_IN_BYTES},
        "versions": {
            "moecompress": __version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "numpy": numpy.__version__,
        },
        "machine": platform.machine(),
    }


def _seal(
    builder: ArtifactBuilder,
    out: Path,
    source: TensorSource,
    layout: ModelLayout,
    identity: dict[str, Any],
    statistics: Statistics,
    entries: list[UnitEntry],
    recipe: LoadedRecipe,
    plans: list[Any],
) -> Manifest:
    provenance = {
        "source_hash": identity["source"],
        "recipe": dict(recipe.resolved, model=None),
        "seed": recipe.recipe.seed,
        "versions": identity["versions"],
        "calibration_hash": statistics.tokens_hash,
        "passes": [
            *([described(recipe.steps, plans)] if any(plan is not None for plan in plans) else []),
            *({"unit": e.unit, "fates": grouped(e.fates), "notes": list(e.notes)} for e in entries),
        ],
    }
    architecture = {"model_type": layout.model_type, "config": source.config, "dtype": dtype_name(source, layout)}
    assets: dict[str, Path | bytes] = {**source_assets(source)}
    priors = statistics.priors(layout)
    if priors is not None:
        assets[PRIORS] = priors
    return builder.seal(out, architecture=architecture, provenance=provenance, assets=assets)
