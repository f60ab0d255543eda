"""What rounding, dropping and merging experts cost on held-out text, with plain torch and no other package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Qwen3MoeForCausalLM

from tiny_model.result import window_nll
from tiny_model.text import spread_windows

CALIBRATION_WINDOWS = 16


@dataclass(frozen=True)
class Figure:
    """Relative increase of perplexity by one change, its standard error, and the bound it must respect."""

    name: str
    increase: float
    error: float
    at_least: float | None = None
    below: float | None = None

    @property
    def requirement(self) -> str | None:
        """The bound as text."""
        if self.at_least is not None:
            return f">= {self.at_least:.0%}"
        return None if self.below is None else f"< {self.below:.0%}"

    @property
    def passed(self) -> bool:
        """True when there is no bound or it holds."""
        above = self.at_least is None or self.increase >= self.at_least
        return above and (self.below is None or self.increase < self.below)

    def as_json(self) -> dict[str, object]:
        """Plain values for a report."""
        return {
            "name": self.name,
            "perplexity_increase": self.increase,
            "standard_error": self.error,
            "requirement": self.requirement,
            "passed": self.passed,
        }


def measure(folder: Path, windows: int) -> tuple[float, list[Figure]]:
    """Held-out perplexity of the model in `folder`, and the cost of each change to it."""
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.set_experts_implementation("grouped_mm")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    length = model.config.max_position_embeddings
    heldout = spread_windows(tokenizer, "heldout", length, windows)
    counts = routed_counts(model, spread_windows(tokenizer, "calibration", length, CALIBRATION_WINDOWS))
    base = window_nll(model, heldout)

    def figure(name: str, change: Callable[[], list[RemovableHandle]], **bound: float) -> Figure:
        kept = [weight.clone() for weight in expert_weights(model)]
        hooks = change()
        difference = window_nll(model, heldout) - base
        undo(model, kept, hooks)
        ratio = difference.mean().exp().item()
        error = ratio * difference.std().item() / math.sqrt(len(difference))
        return Figure(name, ratio - 1, error, **bound)

    quarter = counts.shape[1] // 4
    order = counts.argsort(dim=1)
    return base.mean().exp().item(), [
        figure("experts 4-bit, group 64", lambda: round_experts(model, 4), below=0.02),
        figure("experts 3-bit, group 64", lambda: round_experts(model, 3)),
        figure("experts 2-bit, group 64", lambda: round_experts(model, 2), at_least=0.10),
        figure("least-used quarter dropped", lambda: drop_experts(model, order[:, :quarter]), at_least=0.03),
        figure("most-used quarter dropped", lambda: drop_experts(model, order[:, -quarter:])),
        figure("experts replaced by their mean", lambda: merge_experts(model)),
    ]


def routers(model: Qwen3MoeForCausalLM) -> list[nn.Module]:
    """The router of each layer."""
    return [layer.mlp.gate for layer in model.model.layers]


def expert_weights(model: Qwen3MoeForCausalLM) -> Iterator[torch.Tensor]:
    """Stacked expert matrices, [E, out, in], two of each layer."""
    for layer in model.model.layers:
        yield layer.mlp.experts.gate_up_proj.data
        yield layer.mlp.experts.down_proj.data


def undo(model: Qwen3MoeForCausalLM, kept: list[torch.Tensor], hooks: list[RemovableHandle]) -> None:
    """Put the expert weights `kept` back and take `hooks` off."""
    for weight, original in zip(expert_weights(model), kept, strict=True):
        weight.copy_(original)
    for hook in hooks:
        hook.remove()


def round_experts(model: Qwen3MoeForCausalLM, bits: int, group: int = 64) -> list[RemovableHandle]:
    """Round to nearest on an asymmetric min/max grid per `group` inputs of each row."""
    for weight in expert_weights(model):
        grouped = weight.unflatten(-1, (-1, group))
        low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
        scale = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
        weight.copy_((((grouped - low) / scale).round() * scale + low).flatten(-2))
    return []


def drop_experts(model: Qwen3MoeForCausalLM, dropped: torch.Tensor) -> list[RemovableHandle]:
    """Mask router logits of `dropped` [layers, count] to minus infinity, before the softmax."""
    return [
        router.register_forward_hook(lambda module, _, output, experts=experts: masked_choice(module, output, experts))
        for router, experts in zip(routers(model), dropped, strict=True)
    ]


def masked_choice(
    router: nn.Module, output: tuple[torch.Tensor, ...], experts: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Router output (logits [T, E], weights [T, k], indices [T, k]) without `experts`."""
    logits = output[0].index_fill(1, experts, -math.inf)
    weights, indices = logits.softmax(-1).topk(router.top_k)
    return logits, weights / weights.sum(-1, keepdim=True), indices


def merge_experts(model: Qwen3MoeForCausalLM) -> list[RemovableHandle]:
    """Replace every expert of a layer by the layer's mean expert."""
    for weight in expert_weights(model):
        weight.copy_(weight.mean(0, keepdim=True).expand_as(weight))
    return []


@torch.no_grad()
def routed_counts(model: Qwen3MoeForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """How often each layer's router picks each expert over `windows`: [layers, E]."""
    counts = torch.zeros(len(routers(model)), model.config.num_experts, dtype=torch.long)

    def count(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _input: object, output: tuple[torch.Tensor, ...]) -> None:
            counts[layer] += torch.bincount(output[2].flatten(), minlength=counts.shape[1])

        return hook

    hooks = [router.register_forward_hook(count(layer)) for layer, router in enumerate(routers(model))]
    for window in windows:
        model(input_ids=window[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return counts
