"""MxMoE (arXiv 2505.05799): a choice for each linear block, accuracy against measured run time.

    minimise L^r · T^(1 − r)    L = Σ Δ,   T = Σ use · time

Δ: Frobenius norm of the change of the block's output when only this linear block is rounded. Gate and up of an expert
share a choice, as one kernel computes both. Time of a block: its weights at the measured speed of the kernel for their
bits, and its bytes at the measured speed of the disk, `read_share` of them. The product is minimised by repeatedly
solving its linearisation, r · L / L' + (1 − r) · T / T' around the last L' and T', in every layer by itself or in the
model as a whole. r = 1 looks at accuracy only, r = 0 at time only.

The speeds are a table measured by `evals/benchmarks/kernel_costs.py`; the bundled one names its machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate._swapped import SwapOptions, separable_losses, separable_probes
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Probe, by_block
from moecompress.passes.allocate.frequency import usage_of
from moecompress.passes.sensitivity import swap, usage

_BUNDLED = Path(__file__).with_name("runtime_costs.json")
_ROUNDS = 20


class RuntimeCosts(BaseModel):
    """Measured speeds of a machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    machine: str
    command: str
    seconds_per_weight: dict[int, float] = Field(description="bits → seconds of one multiplication by one weight")
    seconds_per_byte: float = Field(gt=0, description="of a direct read of one expert")


class MxMoe(SwapOptions):
    """Options of `mxmoe`."""

    allocate: Literal["mxmoe"] = Field("mxmoe", description="the allocator's name")
    accuracy: float = Field(0.75, ge=0, le=1, description="r: 1 minimises the error, 0 the run time")
    read_share: float = Field(0.5, ge=0, le=1, description="share of expert uses that read it from disk")
    costs: RuntimeCosts = Field(
        default_factory=lambda: RuntimeCosts.model_validate(json.loads(_BUNDLED.read_text())),
        description="measured speeds: a file by evals/benchmarks/kernel_costs.py (default: the bundled table)",
    )
    scope: Literal["layer", "model"] = Field("layer", description="equal budgets for layers, or one for the model")

    @field_validator("costs", mode="before")
    @classmethod
    def _costs_may_be_a_file(cls, value: Any) -> Any:
        """A path is read, so that the recipe records what was in it."""
        if not isinstance(value, str):
            return value
        try:
            return RuntimeCosts.model_validate(json.loads(Path(value).read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise ValueError(f"{value} is not a table of runtime costs: {error}") from error


def probes(candidates: Candidates, options: MxMoe) -> Mapping[int, Sequence[Probe]]:
    """The use of the experts, and each linear block swapped by each choice."""
    swaps = separable_probes(candidates, options)
    return {layer: (usage.PROBE, *swaps[layer]) for layer in candidates.layers}


def losses(candidates: Candidates, options: MxMoe, findings: Findings) -> Floats:
    """Σ Δ over an expert's linear blocks, `[U, C]`."""
    return separable_losses(candidates, options, findings, "error", root=True)


def times(candidates: Candidates, options: MxMoe, findings: Findings) -> Floats:
    """Expected seconds that each expert takes of a token, `[U, C]`."""
    rows = {
        layer: [
            sum(
                options.costs.seconds_per_weight[spec.bits] * np.prod(moe.projection_shape(p))
                for p, spec in specs.items()
            )
            for specs in (candidates.specs(layer, choice) for choice in range(candidates.shape[1]))
        ]
        for layer, moe in candidates.layers.items()
    }
    compute = np.array([rows[int(layer)] for layer in candidates.layer])
    read = options.read_share * options.costs.seconds_per_byte * candidates.bytes
    return np.asarray(usage_of(candidates, findings, "count")[:, None] * (compute + read))


def choose(candidates: Candidates, options: MxMoe, findings: Findings) -> Allocation:
    """The best L^r · T^(1 − r) that the linearisations lead to."""
    loss, time = losses(candidates, options, findings), times(candidates, options, findings)
    scopes = (
        [np.arange(len(loss))] if options.scope == "model" else [candidates.of(layer) for layer in candidates.layers]
    )
    rows, r = np.arange(len(loss)), options.accuracy

    def combined(choice: Any) -> Floats:
        """The gradient of the logarithm at a choice, scope by scope."""
        found = np.zeros_like(loss)
        for own in scopes:
            total, seconds = (values[own, choice[own]].sum() for values in (loss, time))
            found[own] = r * loss[own] / max(total, 1e-300) + (1 - r) * time[own] / max(seconds, 1e-300)
        return found

    def objective(choice: Any) -> float:
        found = 0.0
        for own in scopes:
            total, seconds = (max(values[own, choice[own]].sum(), 1e-300) for values in (loss, time))
            found += r * np.log(total) + (1 - r) * np.log(seconds)
        return float(found)

    by_layer = options.scope == "layer"
    best = least_loss(candidates, options, loss if r > 0 else time, by_layer).choice
    for _ in range(_ROUNDS):
        choice = least_loss(candidates, options, combined(best), by_layer).choice
        if objective(choice) >= objective(best):
            break
        best = choice
    details = {
        "loss": float(loss[rows, best].sum()),
        "seconds_per_token": float(time[rows, best].sum()),
        "machine": options.costs.machine,
    }
    return Allocation(best, objective(best), details)


def needs(options: MxMoe, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return usage.NEEDS | swap.needs(options.rounded_by(method), "none")


ALLOCATOR = Allocator(options=MxMoe, choose=choose, grid=by_block, probes=probes, needs=needs)
