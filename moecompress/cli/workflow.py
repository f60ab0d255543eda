"""The work behind `run`: compress by a recipe, measure what it asks for, store that with the artifact, check gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moecompress.core.errors import UsageError
from moecompress.core.memory import peak_rss_bytes
from moecompress.core.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """What `run` reports. `evaluation` holds the original's and the artifact's figures, empty when none were asked."""

    artifact: Path
    artifact_hash: str
    bytes: int
    bits_per_weight: float
    resumed_units: int
    compress_peak_rss_bytes: int
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "artifact": str(self.artifact),
            "artifact_hash": self.artifact_hash,
            "bytes": self.bytes,
            "bits_per_weight": self.bits_per_weight,
            "resumed_units": self.resumed_units,
            "compress_peak_rss_bytes": self.compress_peak_rss_bytes,
            "evaluation": dict(self.evaluation),
        }


def default_cache() -> Path:
    """Where statistics and reference logits are kept between runs: the user's cache folder."""
    return Path.home() / ".cache" / "moecompress"


def compress_and_measure(
    recipe: Path,
    overrides: Sequence[str],
    model: str | None,
    out: Path | None,
    cache: Path | None,
    progress: Progress,
) -> Outcome:
    """Run a recipe to the end. Raises GateError when a gate is missed; the artifact is kept and marked."""
    from moecompress.artifact.files import artifact_bytes
    from moecompress.models.locate import locate_model
    from moecompress.pipeline.run import run_recipe
    from moecompress.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides, model)
    source = locate_model(loaded.recipe.model)
    target = out or Path("runs") / recipe.stem / "artifact"
    kept = cache or default_cache()
    _refuse_seen_text(loaded.recipe)
    measured: dict[str, Any] = {}
    peaks: list[int] = []

    def finish(_: Any) -> None:
        peaks.append(peak_rss_bytes())
        measured.update(_measure(loaded.recipe, source, target, kept, progress))

    result = run_recipe(loaded, source, target, kept, progress, finish)
    return Outcome(
        artifact=target,
        artifact_hash=result.manifest.artifact_hash,
        bytes=artifact_bytes(target),
        bits_per_weight=result.manifest.size.bits_per_weight,
        resumed_units=result.resumed_units,
        compress_peak_rss_bytes=peaks[0],
        evaluation=measured,
    )


def _refuse_seen_text(recipe: Any) -> None:
    """Raises UsageError when evaluation text is also calibration text."""
    if recipe.evaluate is None:
        return
    calibration = {str(Path(source.path).resolve()) for source in recipe.calibration.text_sources()}
    for text in recipe.evaluate.text:
        if str(Path(text).resolve()) in calibration:
            raise UsageError(
                f"{text} is calibration text of this recipe; figures on it would flatter. Evaluate on other text."
            )


def _measure(recipe: Any, source: Path, artifact: Path, cache: Path, progress: Progress) -> dict[str, Any]:
    if recipe.evaluate is None:
        return {}
    from moecompress.artifact.card import attach_evaluation
    from moecompress.evaluate.compare import compare
    from moecompress.evaluate.suites import windows_of
    from moecompress.pipeline.gates import check_gates

    windows = windows_of(source, recipe.evaluate)
    measured = compare(source, artifact, windows, cache, progress)
    attach_evaluation(artifact, measured)
    check_gates(recipe.gates, measured, artifact)
    return measured
