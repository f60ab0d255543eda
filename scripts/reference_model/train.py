"""What both trainings share: the loss, fp32 masters, the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

ROWS = 64
"""Positions whose logits exist at one time. 64 x 49 152 floats are 12.6 MB; a whole batch would be fresh pages of
memory at every step, which costs a fifth of the time."""


class _FrozenHeadLoss(torch.autograd.Function):
    """Mean cross entropy (nats) of `hidden` [N, H] through a frozen output matrix `head` [V, H]."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, hidden.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            logits = (hidden[rows] @ head.T).float()
            wanted = targets[rows, None]
            logs = logits.log_softmax(-1)
            total -= logs.gather(1, wanted).sum()
            if ctx.needs_input_grad[0]:
                slope = logs.exp_()
                slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
                gradient[rows] = slope.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        return total / hidden.shape[0]

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (outputs[0] / gradient.shape[0]), None, None


def next_token_loss(model: Any, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood, nats a token, of `tokens` [B, T] given the last hidden states [B, T, H]."""
    flat = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    return _FrozenHeadLoss.apply(flat, model.lm_head.weight.detach(), tokens[:, 1:].reshape(-1))


@torch.no_grad()
def mean_loss(model: Any, samples: torch.Tensor) -> float:
    """Mean negative log-likelihood, nats a token, over windows [n, T]."""
    losses = []
    for window in samples.split(1):
        hidden = model.model(input_ids=window, use_cache=False).last_hidden_state
        losses.append(next_token_loss(model, hidden, window).item())
    return sum(losses) / len(losses)


class Masters:
    """AdamW on fp32 copies of the parameters: in bf16, at rate 1e-3 most single steps would vanish in rounding."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, clip: float = 1.0) -> None:
        self.parameters, self.rate, self.clip = list(parameters), rate, clip
        self.masters = [nn.Parameter(p.detach().float().clone()) for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Apply and clear the gradients, at `share` of the rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(self.masters, self.clip)
        self.optimizer.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)
            master.grad = None


def only_train(model: nn.Module, *names: str) -> list[nn.Parameter]:
    """Freeze all parameters but those with one of `names` in their name, and return these."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in names))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def course(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: linear warm-up, then a cosine down to a tenth."""
    cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warmup) * cosine
