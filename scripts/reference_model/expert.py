"""One domain's expert: half of every FFN's neurons, refitted and trained on the domain.

Neuron j scores E[x_j^2] * ||down[:, j]||^2, its expected energy in the FFN's output, x being the inner activation. With
S the neurons kept and G = X^T X the Gram matrix over the domain, the new down projection is the ridge solution
    D' = argmin ||X_S D'^T - X D^T||^2  =  (G_SS + r I)^-1 G_S: D^T.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from .base import load_dense
from .progress import Progress
from .settings import ExpertSettings
from .stage import Result
from .texts import batches, load_tokens, windows
from .train import Masters, course, mean_loss, next_token_loss, only_train

WEIGHTS = "expert.safetensors"
MATRICES = ("gate_proj", "up_proj", "down_proj")


def make_expert(folder: Path, base: Result, texts: Result, settings: ExpertSettings, seed: int) -> dict[str, Any]:
    """Write a domain's FFNs: gate_proj, up_proj [L, W, H], down_proj [L, H, W], and the neurons kept [L, W]."""
    domain = texts.name.removeprefix("texts-")
    tokens = load_tokens(texts, "train")
    samples = windows(load_tokens(texts, "test"), settings.window)[: settings.test_windows]
    model = load_dense(base)
    figures: dict[str, Any] = {"dense_perplexity": _perplexity(model, samples)}
    kept = narrow(model, tokens[: settings.gram_tokens], settings)
    figures["narrowed_perplexity"] = _perplexity(model, samples)
    figures["loss"] = train(model, tokens, settings, seed, domain)
    figures["perplexity"] = _perplexity(model, samples)
    stacks = {name: torch.stack([getattr(layer.mlp, name).weight.detach() for layer in model.model.layers])
              for name in MATRICES}  # fmt: skip
    save_file(stacks | {"kept": kept}, folder / WEIGHTS)
    return figures


def _perplexity(model: nn.Module, samples: torch.Tensor) -> float:
    return round(math.exp(mean_loss(model, samples)), 3)


@torch.no_grad()
def gram_matrices(model: Any, samples: torch.Tensor) -> list[torch.Tensor]:
    """Each layer's Gram matrix [F, F] of the FFN's inner activations over windows [n, T]."""
    size = model.config.intermediate_size
    grams = [torch.zeros(size, size) for _ in model.model.layers]

    def add_to(gram: torch.Tensor) -> Any:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            inner = inputs[0].reshape(-1, size).float()
            gram.addmm_(inner.T, inner)

        return hook

    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(add_to(gram))
        for layer, gram in zip(model.model.layers, grams, strict=True)
    ]
    for batch in samples.split(2):
        model.model(input_ids=batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return grams


@torch.no_grad()
def narrow(model: Any, tokens: torch.Tensor, settings: ExpertSettings) -> torch.Tensor:
    """Cut every FFN of the model to `width` neurons, in place; return those kept, ascending [L, W]."""
    kept = []
    grams = gram_matrices(model, windows(tokens, settings.window))
    for layer, gram in zip(model.model.layers, grams, strict=True):
        mlp = layer.mlp
        down = mlp.down_proj.weight.float()
        neurons = (gram.diag() * down.square().sum(0)).topk(settings.width).indices.sort().values
        refitted = refit(gram, neurons, down, settings.ridge)
        for matrix, weight in (
            (mlp.gate_proj, mlp.gate_proj.weight[neurons]),
            (mlp.up_proj, mlp.up_proj.weight[neurons]),
            (mlp.down_proj, refitted.to(down.dtype)),
        ):
            matrix.weight = nn.Parameter(weight.to(mlp.up_proj.weight.dtype).contiguous())
        kept.append(neurons)
    model.config.intermediate_size = settings.width
    return torch.stack(kept)


def refit(gram: torch.Tensor, neurons: torch.Tensor, down: torch.Tensor, ridge: float) -> torch.Tensor:
    """The down projection [H, W] of the kept neurons that best gives the full FFN's output [H, F]."""
    kept = gram[neurons][:, neurons]
    kept = kept + ridge * kept.diag().mean() * torch.eye(len(neurons))
    return torch.linalg.solve(kept, gram[neurons] @ down.T).T


def train(model: Any, tokens: torch.Tensor, settings: ExpertSettings, seed: int, domain: str) -> list[float]:
    """Train the FFNs, in place, on the domain's tokens [N]; return each step's loss."""
    masters = Masters(only_train(model, ".mlp."), settings.rate)
    progress = Progress(f"expert-{domain}", settings.steps, settings.batch * settings.window)
    losses = []
    for step, batch in enumerate(batches(tokens, settings.window, settings.batch, settings.steps, seed, domain)):
        loss = next_token_loss(model, model.model(input_ids=batch, use_cache=False).last_hidden_state, batch)
        loss.backward()
        masters.step(course(step, settings.steps, settings.warmup))
        losses.append(round(loss.item(), 4))
        progress.step(step + 1, losses[-1])
    return losses
