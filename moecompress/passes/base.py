"""The contract of a pass: a plain function on one layer's tensors.

A pass module defines `PASS`, a `Pass`. Its name in recipes is the module's path (`passes/quantize/experts.py` is
`quantize.experts`). A pass touches no files, prints nothing and keeps no state; the pipeline reads, schedules, writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.table import codec_of
from moecompress.core.types import MoeLayer, Projection, Role

if TYPE_CHECKING:
    from moecompress.calibration.statistics import LayerStatistics

Weight = torch.Tensor | EncodedWeight
Stage = Literal["prune", "merge", "decompose", "smooth", "quantize", "tune"]


def dense(weight: Weight) -> torch.Tensor:
    """The float32 matrix a weight stands for, whatever its form."""
    if isinstance(weight, torch.Tensor):
        return weight.float()
    return torch.from_numpy(codec_of(weight.spec).dequantize(weight))


@dataclass(frozen=True)
class TrunkWeight:
    """A tensor outside the experts: its checkpoint name is its key; `role` says what passes may do with it."""

    role: Role
    weight: Weight


@dataclass(frozen=True)
class LayerWeights:
    """Everything of one decoder layer, or of the tensors outside all layers (`index` is None).

    `experts[e][projection]` is `[out, in]`; empty for a layer without routed experts. `biases` likewise, often empty.
    """

    index: int | None
    moe: MoeLayer | None
    experts: tuple[Mapping[Projection, Weight], ...]
    trunk: Mapping[str, TrunkWeight]
    biases: tuple[Mapping[Projection, torch.Tensor], ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)

    def with_experts(self, experts: tuple[Mapping[Projection, Weight], ...], claims: Mapping[str, str]) -> LayerWeights:
        """This layer with other experts; `claims` maps parameter names to the pass that changed them."""
        return replace(self, experts=experts, claims={**self.claims, **claims})

    def with_trunk(self, trunk: Mapping[str, TrunkWeight], claims: Mapping[str, str]) -> LayerWeights:
        """This layer with some trunk tensors replaced."""
        return replace(self, trunk={**self.trunk, **trunk}, claims={**self.claims, **claims})


def expert_parameter(layer: int, expert: int, projection: Projection) -> str:
    """The ledger's name of one expert matrix."""
    return f"layers.{layer}.experts.{expert}.{projection}"


class PassOptions(BaseModel):
    """Options of a pass, as written in a recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class PassContext:
    """What the pipeline hands to `apply` beside the layer: the seed, the statistics, and a place for the log line."""

    seed: int
    statistics: LayerStatistics | None = None
    note: Callable[[Mapping[str, Any]], None] = lambda entry: None


@dataclass(frozen=True)
class Survey:
    """What `plan` may know beside headers.

    `answers[layer][i]` is what `measure` said of probe i of that layer. `evaluate(change, signature, tokens)` is the
    mean cross-entropy, in nats, on the first `tokens` calibration tokens of the model whose layers `change` has
    replaced; `signature[layer]` is a plain value that tells one form of a layer from another, so that layers before the
    first difference are not run again. It is None where no calibration text is at hand.
    """

    answers: Mapping[int, Sequence[Any]]
    evaluate: Callable[[Callable[[LayerWeights], LayerWeights], Mapping[int, Any], int], float] | None = None


def _no_answers(layer: LayerWeights, probes: Sequence[Any], context: PassContext) -> list[Any]:
    """For passes without probes."""
    return []


@dataclass(frozen=True)
class Pass:
    """A pass: its options, what statistics it needs, its global plan and its change of one layer.

    apply(layer, options, plan, context) returns the changed layer with its claims; it never changes what it is given,
    and gives the same bytes for the same arguments. needs(options) names the members of `LayerStatistics` it reads.

    probes(options, layers) gives, layer by layer, plain values that name what the plan wants measured, and
    measure(layer, probes, context) one plain answer each. Answers are kept on disk by the probe, the model, the text
    and the passes before this one, so they depend on nothing else: not on other options, not on the other probes.

    plan(options, layers, survey) returns a plain JSON-able value and is handed back to apply; `layers` maps index →
    MoeLayer. `survey` is None when only headers are known: then the plan may be a forecast, and slack(plan) says by
    how many bytes the outcome may be larger; None: the plan is final. planned_spec(options, plan, name, role,
    shape) is the codec's spec that the parameter will be stored in, None for one left alone; `role` is None for
    routed experts, whose `name` is `expert_parameter`'s. Every option has a default.
    `moecompress.testing.pass_checks` checks all of this.
    """

    options: type[PassOptions]
    stage: Stage
    apply: Callable[[LayerWeights, Any, Any, PassContext], LayerWeights]
    needs: Callable[[Any], frozenset[str]] = lambda options: frozenset()
    probes: Callable[[Any, Mapping[int, MoeLayer]], Mapping[int, Sequence[Any]]] = lambda options, layers: {}
    measure: Callable[[LayerWeights, Sequence[Any], PassContext], list[Any]] = _no_answers
    plan: Callable[[Any, Mapping[int, MoeLayer], Survey | None], Any] = lambda options, layers, survey: None
    slack: Callable[[Any], int | None] = lambda plan: None
    planned_spec: Callable[[Any, Any, str, Role | None, tuple[int, ...]], Any] = lambda *_: None
