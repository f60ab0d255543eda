"""GEMQ (arXiv 2605.23078): one integer program for the whole model, on losses that are comparable across layers.

The loss of rounding expert e to b bits is Σ γ² (z − ẑ)² over its tokens and the output's dimensions, with γ the
gradient of the cross-entropy at the layer's output: the diagonal Gauss-Newton estimate of what it adds to the
cross-entropy. Half of its mean is in nats per token, which is what `predicted` is. No layer has a budget of its own;
`spread` is the authors' constraint that each layer holds an expert of each of the two largest choices.

The paper repeats this at falling budgets on the model with a tuned router; a second recipe on the first one's result
does the same, because probes are measured on the layers as the passes before this one leave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate._swapped import SwapOptions, joint_losses, joint_probes
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Probe
from moecompress.passes.allocate.options import Choice
from moecompress.passes.allocate.pmq import two_largest
from moecompress.passes.sensitivity import swap


class Gemq(SwapOptions):
    """Options of `gemq`."""

    allocate: Literal["gemq"] = Field("gemq", description="the allocator's name")
    choices: tuple[Choice, ...] = Field((1, 2, 3), min_length=1, description="bit widths to choose from")
    spread: bool = Field(True, description="every layer keeps an expert of each of the two largest choices")


def probes(candidates: Candidates, options: Gemq) -> Mapping[int, Sequence[Probe]]:
    """Each expert swapped by each choice, weighed by the gradient of the text's cross-entropy."""
    return joint_probes(candidates, options, "text")


def losses(candidates: Candidates, options: Gemq, findings: Findings) -> Floats:
    """Predicted nats per token, `[U, C]`."""
    return 0.5 * joint_losses(candidates, options, findings, "weighted", "text")


def choose(candidates: Candidates, options: Gemq, findings: Findings) -> Allocation:
    """The least predicted loss of the whole model."""
    loss = losses(candidates, options, findings)
    solved = least_loss(candidates, options, loss, spread=two_largest(candidates, options))
    return Allocation(solved.choice, solved.loss, {"gap": solved.gap, "unit": "nats per token"})


def needs(options: Gemq, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return swap.needs(options.rounded_by(method), "text")


ALLOCATOR = Allocator(options=Gemq, choose=choose, probes=probes, needs=needs)
