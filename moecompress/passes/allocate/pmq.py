"""PMQ, pre-loading mixed-precision quantization (MC-MoE, arXiv 2410.06270): an integer program for each layer.

    minimise Σ φ^α · w^β · ε(b)^γ    within an equal share of the budget for every layer

φ: tokens routed to the expert, w: the sum of their softmax probabilities, both as shares of their layer; ε(b):
Frobenius norm of the change of the block's output when only this expert is rounded to b bits. The exponents are the
paper's; the authors' code raises ε to α and never uses γ. `spread` is their constraint that each layer holds an expert
of each of the two largest choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate._swapped import SwapOptions, joint_losses, joint_probes
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Probe
from moecompress.passes.allocate.frequency import usage_of
from moecompress.passes.allocate.options import Choice
from moecompress.passes.sensitivity import swap, usage


class Pmq(SwapOptions):
    """Options of `pmq`."""

    allocate: Literal["pmq"] = Field("pmq", description="the allocator's name")
    choices: tuple[Choice, ...] = Field((1, 2, 3), min_length=1, description="bit widths to choose from")
    alpha: float = Field(1.0, ge=0, description="exponent of the expert's share of its layer's tokens")
    beta: float = Field(1.0, ge=0, description="exponent of its share of the routing probabilities (their code: 1.5)")
    gamma: float = Field(2.0, ge=0, description="exponent of the output error")
    spread: bool = Field(True, description="every layer keeps an expert of each of the two largest choices")


def probes(candidates: Candidates, options: Pmq) -> Mapping[int, Sequence[Probe]]:
    """The use of the experts, and each of them swapped by each choice."""
    swaps = joint_probes(candidates, options)
    return {layer: (usage.PROBE, *swaps[layer]) for layer in candidates.layers}


def losses(candidates: Candidates, options: Pmq, findings: Findings) -> Floats:
    """φ^α · w^β · ε^γ, `[U, C]`."""
    count, raw = (usage_of(candidates, findings, name) for name in ("count", "raw"))
    for layer in candidates.layers:
        own = candidates.of(layer)
        count[own] /= max(count[own].sum(), 1e-300)
        raw[own] /= max(raw[own].sum(), 1e-300)
    epsilon = np.sqrt(joint_losses(candidates, options, findings, "error"))
    return (count**options.alpha * raw**options.beta)[:, None] * epsilon**options.gamma


def choose(candidates: Candidates, options: Pmq, findings: Findings) -> Allocation:
    """Layer by layer."""
    solved = least_loss(
        candidates, options, losses(candidates, options, findings), True, two_largest(candidates, options)
    )
    return Allocation(solved.choice, solved.loss, {"gap": solved.gap})


def two_largest(candidates: Candidates, options: Any) -> tuple[int, ...]:
    """The columns that every layer must hold: the two largest of at least three choices."""
    last = candidates.shape[1] - 1
    return (last, last - 1) if options.spread and last >= 2 else ()


def needs(options: Pmq, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return usage.NEEDS | swap.needs(options.rounded_by(method), "none")


ALLOCATOR = Allocator(options=Pmq, choose=choose, probes=probes, needs=needs)
