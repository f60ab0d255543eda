"""Statistics for a run: collected once per model and calibration text, kept on disk, shared by every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moecompress.artifact.priors import pack_priors
from moecompress.calibration.collect import collect
from moecompress.calibration.gradients import Labels, collect_gradients
from moecompress.calibration.priors import routing_priors
from moecompress.calibration.statistics import LayerStatistics
from moecompress.calibration.store import StatisticsEntry, StatisticsStore
from moecompress.calibration.texts import Ids, calibration_tokens
from moecompress.core.progress import Progress
from moecompress.models.discover import ModelLayout
from moecompress.models.source import TensorSource
from moecompress.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Statistics:
    """Access to the statistics of each layer; there are none when no pass of the recipe needs any."""

    entry: StatisticsEntry | None
    tokens_hash: str | None
    sequence_length: int = 0
    ids: Ids | None = None

    def layer(self, index: int | None) -> LayerStatistics | None:
        """The statistics of one decoder layer."""
        if self.entry is None or index is None:
            return None
        return self.entry.layer(index)

    def priors(self, layout: ModelLayout) -> bytes | None:
        """The artifact's `priors.safetensors`; None without statistics."""
        if self.entry is None:
            return None
        experts = [moe.experts for moe in layout.moe.values()]
        choices = [self.entry.layer(index).top_k_index for index in layout.moe]
        return pack_priors(routing_priors(choices, experts, self.sequence_length), experts)


def needed(recipe: LoadedRecipe) -> frozenset[str]:
    """The statistics that the recipe's passes ask for."""
    return frozenset().union(*(step.definition.needs(step.options) for step in recipe.steps))


def gradients(recipe: LoadedRecipe) -> list[Labels]:
    """The output gradients among them, by their labels."""
    kinds: tuple[Labels, ...] = ("text", "model")
    return [labels for labels in kinds if f"{labels}_gradient" in needed(recipe)]


def gather(
    recipe: LoadedRecipe, source: TensorSource, layout: ModelLayout, cache: Path, progress: Progress
) -> Statistics:
    """Collect what is missing. Does nothing, and reads no text, when no pass needs statistics."""
    if not needed(recipe):
        return Statistics(None, None)
    options = recipe.recipe.calibration
    tokens = calibration_tokens(options, source)
    entry = collect(source, layout, tokens, StatisticsStore(cache / "statistics"), progress)
    for labels in gradients(recipe):
        entry = collect_gradients(source, layout, tokens, entry, options.gradient_tokens, labels, progress)
    return Statistics(entry, tokens.hash, tokens.ids.shape[1], tokens.ids)
