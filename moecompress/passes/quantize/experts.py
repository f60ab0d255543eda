"""Quantize every routed expert: `quantize.experts`.

Gate and up see the same inputs and share a Hessian; down's is computed from what the quantized gate and up make of
the expert's tokens. Tokens count by their routing weight. Experts that few tokens reached use Grams shrunk towards
their layer's: no expert is skipped, zeroed, or left unquantized. `bits` is one number, a mapping of gate, up, down and
default, or an allocator with a budget that gives every expert bits of its own. Methods that need no Hessian (`rtn`,
`hqq`) need no calibration, unless the allocator does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Union

import torch
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError, UsageError
from moecompress.core.types import PROJECTIONS, MoeLayer, Projection, Role
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.allocate.table import allocator_named, allocators
from moecompress.passes.base import LayerWeights, Pass, PassContext, Survey, Weight, expert_parameter
from moecompress.passes.quantize import _allocation
from moecompress.passes.quantize._encode import Outcome, full_precision, rounded
from moecompress.passes.quantize._expert import as_affine, quantize_expert
from moecompress.passes.quantize._hessians import ExpertHessians, Weighting
from moecompress.passes.quantize._options import BitWidth, QuantizeOptions, RoleBits, Solver, kind_of_bits
from moecompress.passes.sensitivity.base import measure

NAME = "quantize.experts"


class ProjectionBits(RoleBits):
    """Bits of gate, up and down; `default` for those not named."""

    gate: BitWidth | None = None
    up: BitWidth | None = None
    down: BitWidth | None = None

    @model_validator(mode="after")
    def _all_are_given(self) -> ProjectionBits:
        missing = [projection for projection in PROJECTIONS if self.of(projection) is None]
        if missing:
            raise ValueError(f"no bits for {', '.join(missing)}; name each of gate, up and down, or give a default")
        return self


def _kind_of_bits(value: Any) -> str:
    """A number, a mapping by projection, or an allocator's options."""
    if isinstance(value, AllocationOptions):
        return f"Allocate[{value.allocate}]"
    if isinstance(value, Mapping) and "allocate" in value:
        return f"Allocate[{value['allocate']}]"
    return kind_of_bits(value)


if TYPE_CHECKING:
    Bits = int | ProjectionBits | AllocationOptions
else:
    _ALLOCATED = [Annotated[found.options, Tag(f"Allocate[{name}]")] for name, found in allocators().items()]
    _FIXED = (Annotated[BitWidth, Tag("int")], Annotated[ProjectionBits, Tag("RoleBits")])
    Bits = Annotated[Union[(*_FIXED, *_ALLOCATED)], Discriminator(_kind_of_bits)]


class Options(QuantizeOptions):
    """Options of `quantize.experts`."""

    method: str = Field("gptq", description="rtn, hqq, gptq, or another registered method")
    bits: Bits = Field(
        4, description="1 to 8, a mapping of gate, up, down and default, or {allocate: NAME, average: 2.5}"
    )
    weighting: Weighting = Field(
        "routing", description="how much a token counts in Hessians: by its routing weight, or none: all the same"
    )

    @field_validator("bits", mode="before")
    @classmethod
    def _allocator_is_known(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "allocate" in value:
            try:
                allocator_named(str(value["allocate"]))
            except UsageError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def quantizer(self) -> dict[str, Any]:
        """The method with its options and the weighting of its Hessians, as a plain value."""
        return {"method": self.method, "method_options": dict(self.method_options), "weighting": self.weighting}

    def spec_of(self, projection: Projection, plan: Any = None, layer: int = 0, expert: int = 0) -> AffineSpec:
        """How one matrix is stored; layer and expert matter only when an allocator made the plan."""
        if isinstance(self.bits, AllocationOptions):
            return _allocation.planned_form(plan, layer, expert, projection)
        bits = self.bits if isinstance(self.bits, int) else self.bits.of(projection)
        if bits is None:
            raise ValueError(f"No bits for {projection}.")
        return self.spec(bits)


def apply(layer: LayerWeights, options: Options, plan: Any, context: PassContext) -> LayerWeights:
    """The layer with every expert encoded; layers without routed experts stay as they are."""
    if not layer.experts or layer.index is None:
        return layer
    hessians = _hessians(layer.index, options, context)
    outcomes = []
    for expert in range(len(layer.experts)):
        weights = _matrices(layer, expert)
        specs = {p: options.spec_of(p, plan, layer.index, expert) for p in weights}
        outcomes.append(quantize_expert(weights, specs, options.solver, hessians, expert))
    experts = tuple({projection: outcome.weight for projection, outcome in found.items()} for found in outcomes)
    context.note(_note(options, outcomes, hessians))
    return layer.with_experts(experts, _claims(layer))


def _claims(layer: LayerWeights) -> dict[str, str]:
    return {expert_parameter(layer.index or 0, e, p): NAME for e, found in enumerate(layer.experts) for p in found}


def _hessians(layer: int, options: Options, context: PassContext) -> ExpertHessians | None:
    if not options.solver.needs_hessian:
        return None
    if context.statistics is None:
        raise CalibrationError(f"{NAME} with {options.method} needs calibration statistics; layer {layer} has none.")
    return ExpertHessians(context.statistics, options.weighting)


def _matrices(layer: LayerWeights, expert: int) -> dict[Projection, torch.Tensor]:
    """Gate (if there is one), up and down of one expert, at full precision."""
    weights: Mapping[Projection, Weight] = layer.experts[expert]
    names = {projection: expert_parameter(layer.index or 0, expert, projection) for projection in weights}
    return {p: full_precision(weights[p], names[p], NAME) for p in PROJECTIONS if p in weights}


def _note(
    options: Options, outcomes: list[dict[Projection, Outcome]], hessians: ExpertHessians | None
) -> dict[str, Any]:
    """What the log says of a layer: errors of each expert and projection, tokens, share of its own Gram, remarks."""
    rows: list[dict[str, Any]] = []
    for found in outcomes:
        remarks = {projection: outcome.remark for projection, outcome in found.items() if outcome.remark}
        rows.append({"error": {p: rounded(outcome.error) for p, outcome in found.items()}, "remarks": remarks})
    if hessians:
        for expert, row in enumerate(rows):
            row.update(tokens=int(hessians.statistics.count[expert]), lam=rounded(hessians.own_share(expert)))
    return {
        "summary": _summary(options, rows, outcomes),
        "method": options.method,
        "measure": "output" if hessians else "weight",
        "specs": _common([{p: outcome.weight.spec.key for p, outcome in found.items()} for found in outcomes]),
        "experts": rows,
    }


def _common(specs: list[dict[Projection, str]]) -> dict[Projection, str]:
    """The form of each projection, or `mixed` where experts differ."""
    return {p: specs[0][p] if all(row[p] == specs[0][p] for row in specs) else "mixed" for p in specs[0]}


def _summary(options: Options, rows: list[dict[str, Any]], outcomes: list[dict[Projection, Outcome]]) -> str:
    measure = "output" if "tokens" in rows[0] else "weight"
    parts = []
    for projection in rows[0]["error"]:
        errors = [row["error"][projection] for row in rows]
        widths = [as_affine(found[projection].weight.spec).bits for found in outcomes]
        bits = f"{widths[0]}" if len(set(widths)) == 1 else f"{sum(widths) / len(widths):.2f} (mean)"
        parts.append(f"{projection} {bits} bit {sum(errors) / len(errors):.4f} (worst {max(errors):.4f})")
    text = f"{options.method}, relative {measure} error: {', '.join(parts)}"
    if "tokens" in rows[0]:
        fewest = min(range(len(rows)), key=lambda expert: rows[expert]["tokens"])
        text += f"; fewest tokens {rows[fewest]['tokens']} (expert {fewest}, own Gram {rows[fewest]['lam']:.2f})"
    remarks = sum(bool(row["remarks"]) for row in rows)
    return text + (f"; {remarks} experts with remarks" if remarks else "")


def _choice(options: Options, layers: Mapping[int, MoeLayer]) -> _allocation.BitChoice | None:
    """The allocator at work, None when bits are fixed."""
    if not isinstance(options.bits, AllocationOptions):
        return None
    return _allocation.BitChoice(options.bits, options, options.quantizer, layers)


def _probes(options: Options, layers: Mapping[int, MoeLayer]) -> Mapping[int, Sequence[Any]]:
    choice = _choice(options, layers)
    return choice.probes() if choice else {}


def _plan(options: Options, layers: Mapping[int, MoeLayer], survey: Survey | None) -> Any:
    """The allocator's decision; None when bits are fixed."""
    choice = _choice(options, layers)
    return choice.plan(survey, _rounded_to_nearest) if choice else None


def _rounded_to_nearest(layer: LayerWeights, specs: Sequence[Mapping[Projection, AffineSpec] | None]) -> LayerWeights:
    """The layer with each expert in the forms given, by the cheapest method; those without stay as they are."""
    experts: list[Mapping[Projection, Weight]] = []
    for expert, forms in enumerate(specs):
        if forms is None:
            experts.append(layer.experts[expert])
        else:
            found = quantize_expert(_matrices(layer, expert), forms, Solver.named("rtn"), None, expert)
            experts.append({projection: outcome.weight for projection, outcome in found.items()})
    return layer.with_experts(tuple(experts), _claims(layer))


def _slack(plan: Any) -> int | None:
    return None if plan is None or plan["exact"] else int(plan["slack"])


def _planned_spec(options: Options, plan: Any, name: str, role: Role | None, shape: tuple[int, ...]) -> Any:
    """The spec of an expert's matrix; None for everything outside the experts."""
    if role is not None or not name.startswith("layers."):
        return None
    _, layer, _, expert, projection = name.split(".")
    return options.spec_of(projection, plan, int(layer), int(expert))  # type: ignore[arg-type]


def _needs(options: Options) -> frozenset[str]:
    found: set[str] = set()
    if options.solver.needs_hessian:
        found |= {"count", "inputs", "top_k_index", "top_k_weights", "gram_layer", "gram_mid_layer"}
    if isinstance(options.bits, AllocationOptions):
        found |= allocator_named(options.bits.allocate).needs(options.bits, options.quantizer)
    return frozenset(found)


PASS = Pass(
    options=Options,
    stage="quantize",
    apply=apply,
    needs=_needs,
    probes=_probes,
    measure=measure,
    plan=_plan,
    slack=_slack,
    planned_spec=_planned_spec,
)
