"""What calibration and the weights say about each expert before anything is compressed: the work behind `profile`.

The probes are those of the allocators and kept where a run keeps them, so a run after a profile measures less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecompress.calibration.collect import collect
from moecompress.calibration.gradients import collect_gradients
from moecompress.calibration.options import CalibrationOptions
from moecompress.calibration.store import StatisticsEntry, StatisticsStore
from moecompress.calibration.texts import calibration_tokens
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.table import effective_bits
from moecompress.core.progress import Progress
from moecompress.core.types import PROJECTIONS, MoeLayer
from moecompress.models.discover import ModelLayout
from moecompress.models.source import TensorSource
from moecompress.passes.base import PassContext
from moecompress.passes.sensitivity import shape, swap, trace, usage
from moecompress.passes.sensitivity.base import measure
from moecompress.pipeline.answers import AnswerStore, answered
from moecompress.pipeline.decide import answer_identity
from moecompress.pipeline.units import read_unit

BITS = (2, 3, 4)
_RTN: Mapping[str, Any] = {"method": "rtn", "method_options": {}, "weighting": "none"}


@dataclass(frozen=True)
class ExpertProfile:
    """One expert. `share`: of the layer's tokens. Lists by projection are means over its matrices.

    `error` and `nats` map a width to the mean squared error of the block's output and to the predicted divergence, both
    per token; `trace` is the Hessian trace of the smallest width's rounding. None where there was no text.
    """

    expert: int
    kurtosis: float
    alpha: float
    stable_rank: float
    energy: float
    share: float | None = None
    weight: float | None = None
    trace: float | None = None
    error: Mapping[int, float] | None = None
    nats: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Profile:
    """All experts by layer, and what was measured on."""

    model_type: str
    text: str
    group_size: int
    effective_bits: Mapping[int, float]
    layers: Mapping[int, tuple[ExpertProfile, ...]]


def profile_model(
    source: TensorSource,
    layout: ModelLayout,
    calibration: CalibrationOptions | None,
    cache: Path,
    progress: Progress,
    group_size: Any = 64,
) -> Profile:
    """Profile every MoE layer; without `calibration` only what the weights tell."""
    specs = [AffineSpec(bits=bits, group_size=group_size) for bits in BITS]
    probes: list[Any] = [shape.PROBE]
    entry, tokens_hash, text = None, None, ""
    if calibration is not None:
        tokens = calibration_tokens(calibration, source)
        entry = collect(source, layout, tokens, StatisticsStore(cache / "statistics"), progress)
        entry = collect_gradients(source, layout, tokens, entry, calibration.gradient_tokens, "model", progress)
        tokens_hash, text = tokens.hash, tokens.description
        probes += [usage.PROBE, trace.probe(specs[0])]
        probes += [swap.probe(dict.fromkeys(PROJECTIONS, spec), _RTN, "model") for spec in specs]
    gradient_tokens = calibration.gradient_tokens if calibration else 0
    store = AnswerStore(cache / "answers", answer_identity(source, tokens_hash, gradient_tokens))

    def ask(layer: int, asked: Sequence[Any]) -> list[Any]:
        unit = read_unit(source, layout, layer)[0]
        return measure(unit, asked, PassContext(0, _statistics(entry, layer)))

    answers = answered(store, dict.fromkeys(layout.moe, probes), ask, progress, "profile")
    largest = next(iter(layout.moe.values()))
    return Profile(
        layout.model_type,
        text,
        group_size,
        {spec.bits: effective_bits(spec, largest.projection_shape("up")) for spec in specs},
        {layer: _experts(layout.moe[layer], found) for layer, found in answers.items()},
    )


def _statistics(entry: StatisticsEntry | None, layer: int) -> Any:
    return entry.layer(layer) if entry is not None else None


def _experts(moe: MoeLayer, answers: Sequence[Any]) -> tuple[ExpertProfile, ...]:
    weights, measured = answers[0], answers[1:]
    return tuple(
        ExpertProfile(
            expert=expert,
            kurtosis=_mean(weights["kurtosis"], expert),
            alpha=_mean(weights["alpha"], expert),
            stable_rank=_mean(weights["stable_rank"], expert),
            energy=_mean(weights["energy"], expert),
            **_measured(measured, expert),
        )
        for expert in range(moe.experts)
    )


def _mean(by_projection: Mapping[str, Sequence[float]], expert: int) -> float:
    return sum(values[expert] for values in by_projection.values()) / len(by_projection)


def _measured(answers: Sequence[Any], expert: int) -> dict[str, Any]:
    if not answers:
        return {}
    used, traces, *swaps = answers
    return {
        "share": used["count"][expert] / used["tokens"],
        "weight": used["used"][expert] / max(1, used["count"][expert]),
        "trace": sum(values[expert] for values in traces.values()),
        "error": {bits: answer["error"][expert] for bits, answer in zip(BITS, swaps, strict=True)},
        "nats": {bits: 0.5 * answer["directed"][expert] for bits, answer in zip(BITS, swaps, strict=True)},
    }
