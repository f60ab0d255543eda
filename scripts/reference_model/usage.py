"""Counts which experts the routers choose."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ChoiceCounter:
    """Counts of choices [domains, L, E], filled by hooks on a Mixtral's routers."""

    def __init__(self, model: Any, domains: int) -> None:
        layers = model.model.layers
        self.counts = torch.zeros(domains, len(layers), model.config.num_local_experts, dtype=torch.int64)
        self.domain = 0
        for index, layer in enumerate(layers):
            layer.mlp.gate.register_forward_hook(self._hook(index))

    def _hook(self, layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
            chosen = output[2].flatten()
            self.counts[self.domain, layer] += chosen.bincount(minlength=self.counts.shape[2])

        return hook


def summarise(counts: torch.Tensor) -> dict[str, Any]:
    """What the counts [domains, L, E] say, expert e having been made for domain e.

    `own_share`: the share of each domain's choices that go to its own expert (at most 1 / top_k).
    `entropy`: each layer's entropy of use over all domains, 1 when all experts are used alike.
    `share`: each layer's share of choices of every expert.
    """
    totals = counts.sum(0).double()
    share = totals / totals.sum(1, keepdim=True)
    entropy = torch.special.entr(share).sum(1) / torch.tensor(counts.shape[2]).log()
    own = counts.sum(1).double()
    own_share = own.diagonal() / own.sum(1)
    return {
        "own_share": _rounded(own_share),
        "entropy": _rounded(entropy),
        "share": [_rounded(layer) for layer in share],
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
