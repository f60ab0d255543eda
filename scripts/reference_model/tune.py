"""Joint training of the routers and norms on the mixture of domains; the experts stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from .arithmetic import compute_type
from .base import copy_tokenizer, save_model
from .progress import Progress
from .settings import TuneSettings
from .stage import Result
from .texts import load_tokens, mixture
from .train import Masters, course, next_token_loss, only_train


def load_mixture(result: Result) -> Any:
    """The Mixtral of a result's folder in the type that the build computes in, in evaluation mode."""
    return MixtralForCausalLM.from_pretrained(
        result.folder, dtype=compute_type(), experts_implementation="eager"
    ).eval()


def make_tuned(
    folder: Path, assembled: Result, texts: Sequence[Result], settings: TuneSettings, seed: int
) -> dict[str, Any]:
    """Write the tuned Mixtral folder; report each step's loss and balance."""
    model = load_mixture(assembled)
    figures = tune(model, [load_tokens(text, "train") for text in texts], settings, seed)
    save_model(model, folder)
    copy_tokenizer(assembled, folder)
    return figures


def tune(model: Any, domains: Sequence[torch.Tensor], settings: TuneSettings, seed: int) -> dict[str, Any]:
    """Train routers and norms in place on the domains' tokens, each [N].

    The loss is next-token cross entropy plus `balance` times Switch's load balancing loss, which is least, top_k, when
    all experts are used alike.
    """
    masters = Masters(only_train(model, ".mlp.gate.", "norm"), settings.rate)
    progress = Progress("tuned", settings.steps, settings.batch * settings.window)
    experts, top_k = model.config.num_local_experts, model.config.num_experts_per_tok
    losses, balances = [], []
    for step, batch in enumerate(mixture(domains, settings.window, settings.batch, settings.steps, seed)):
        output = model.model(input_ids=batch, use_cache=False, output_router_logits=True)
        loss = next_token_loss(model, output.last_hidden_state, batch)
        balance: Any = load_balancing_loss_func(output.router_logits, experts, top_k)
        (loss + settings.balance * balance).backward()
        masters.step(course(step, settings.steps, settings.warmup))
        losses.append(round(loss.item(), 4))
        balances.append(round(balance.item(), 3))
        progress.step(step + 1, losses[-1])
    return {"loss": losses, "balance": balances}
