"""Where the routers start: in every layer, a logistic regression of the domain on the FFN's input.

Its rows are the router's rows, so a token's first choice is the expert of the domain it looks most like.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from .base import load_dense
from .progress import report
from .seeds import generator
from .settings import RouterSettings
from .stage import Result
from .texts import load_tokens, windows

WEIGHTS = "routers.safetensors"


def make_routers(
    folder: Path, base: Result, texts: Sequence[Result], settings: RouterSettings, seed: int
) -> dict[str, Any]:
    """Write the routers [L, E, H] in float32, domain e being expert e; report each layer's accuracy."""
    samples = [windows(load_tokens(text, "train")[-settings.tokens :], settings.window) for text in texts]
    states, labels = ffn_inputs(load_dense(base), samples)
    rows, accuracy = [], []
    for layer, inputs in enumerate(states):
        weight, right = regress(inputs.float(), labels, len(texts), settings, generator(seed, "router", str(layer)))
        rows.append(weight)
        accuracy.append(round(right, 3))
    report("routers", f"accuracy {min(accuracy):.3f} to {max(accuracy):.3f}")
    save_file({"weight": torch.stack(rows)}, folder / WEIGHTS)
    return {"accuracy": accuracy}


@torch.no_grad()
def ffn_inputs(model: Any, samples: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each layer's FFN inputs [N, H] over all domains' windows [n, T], and the domain [N] of every token."""
    parts: list[list[torch.Tensor]] = [[] for _ in model.model.layers]

    def keep(part: list[torch.Tensor]) -> Any:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            part.append(inputs[0].flatten(0, 1).clone())

        return hook

    for layer, part in zip(model.model.layers, parts, strict=True):
        layer.mlp.register_forward_pre_hook(keep(part))
    for domain in samples:
        for batch in domain.split(2):
            model.model(input_ids=batch, use_cache=False)
    labels = torch.cat([torch.full((domain.numel(),), index) for index, domain in enumerate(samples)])
    return [torch.cat(part) for part in parts], labels


def regress(
    inputs: torch.Tensor, labels: torch.Tensor, classes: int, settings: RouterSettings, random: torch.Generator
) -> tuple[torch.Tensor, float]:
    """Logistic regression of labels [N] on inputs [N, H]: weights [classes, H] for raw inputs, and the accuracy."""
    spread = inputs.std(0) + 1e-3
    scaled = inputs / spread
    weight = torch.zeros(classes, inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=settings.rate)
    for _ in range(settings.iterations):
        rows = torch.randint(inputs.shape[0], (settings.batch,), generator=random)
        loss = F.cross_entropy(scaled[rows] @ weight.T, labels[rows]) + settings.decay * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = weight.detach()
    right = ((scaled @ weight.T).argmax(1) == labels).float().mean().item()
    return weight / spread, right
