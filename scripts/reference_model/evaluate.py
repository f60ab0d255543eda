"""Test perplexity of the base, of the model, and of the model after known damage; use of the experts.

The damaged rows show what the model is good for: experts too alike survive being replaced by their mean, experts
trained too little survive two bits, and on such a model every method of compression looks alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .base import load_dense
from .progress import report
from .settings import EvaluateSettings
from .stage import Result
from .texts import load_tokens, windows
from .train import mean_loss
from .tune import load_mixture
from .usage import ChoiceCounter, summarise

ROWS = ("original", "round-4-bit", "round-3-bit", "round-2-bit", "mean-expert")


def measure_dense(_folder: Path, base: Result, texts: Sequence[Result], settings: EvaluateSettings) -> dict[str, Any]:
    """The base model's perplexities on the windows that the rows use."""
    return _measure(load_dense(base), texts, settings, "dense")


def measure_row(
    _folder: Path, tuned: Result, texts: Sequence[Result], settings: EvaluateSettings, row: str
) -> dict[str, Any]:
    """The model's perplexities after the damage that `row` names, and the use it makes of its experts."""
    model = load_mixture(tuned)
    damage(model, row, settings.group)
    counter = ChoiceCounter(model, len(texts))
    return _measure(model, texts, settings, row, counter) | {"usage": summarise(counter.counts)}


def _measure(
    model: Any, texts: Sequence[Result], settings: EvaluateSettings, row: str, counter: ChoiceCounter | None = None
) -> dict[str, Any]:
    perplexity, losses = {}, []
    for index, text in enumerate(texts):
        if counter is not None:
            counter.domain = index
        samples = windows(load_tokens(text, "test"), settings.window)[: settings.windows]
        losses.append(mean_loss(model, samples))
        domain = text.name.removeprefix("texts-")
        perplexity[domain] = round(math.exp(losses[-1]), 3)
        report(f"evaluation-{row}", f"{domain} {perplexity[domain]}")
    return {"perplexity": perplexity, "mean_nll": round(sum(losses) / len(losses), 4)}


@torch.no_grad()
def damage(model: Any, row: str, group: int) -> None:
    """Change all experts in place."""
    for layer in model.model.layers:
        for weights in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            if row == "mean-expert":
                weights.copy_(weights.float().mean(0, keepdim=True).expand_as(weights))
            elif row.startswith("round-"):
                weights.copy_(round_to_nearest(weights.float(), int(row.split("-")[1]), group))


def round_to_nearest(weights: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Weights [..., inputs] on 2^bits even levels from the least to the greatest of each group of inputs."""
    groups = weights.unflatten(-1, (-1, group))
    least = groups.amin(-1, keepdim=True)
    step = ((groups.amax(-1, keepdim=True) - least) / (2**bits - 1)).clamp_min(1e-12)
    return (((groups - least) / step).round() * step + least).flatten(-2)
