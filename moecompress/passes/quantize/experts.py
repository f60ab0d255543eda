"""Quantize every routed expert: `quantize.experts`.

Gate and up see the same inputs and share a Hessian; down's is computed from what the quantized gate and up make of
the expert's tokens, so that it makes up for part of their error (MoEQuant's order, arXiv 2505.03804). Tokens count by
their routing weight. Experts that few tokens reached use Grams shrunk towards their layer's: no expert is skipped,
zeroed, or left unquantized. `bits` is one number or a mapping of gate, up, down and default. Methods that need no
Hessian (`rtn`, `hqq`) need no calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.table import codec_of
from moecompress.core.errors import CalibrationError
from moecompress.core.types import PROJECTIONS, Projection, Role
from moecompress.passes.base import LayerWeights, Pass, PassContext, Weight, expert_parameter
from moecompress.passes.quantize._encode import Outcome, encode, full_precision, rounded
from moecompress.passes.quantize._hessians import ExpertHessians, Weighting
from moecompress.passes.quantize._options import BitWidth, QuantizeOptions, RoleBits, kind_of_bits

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


Bits = Annotated[
    Annotated[BitWidth, Tag("int")] | Annotated[ProjectionBits, Tag("RoleBits")], Discriminator(kind_of_bits)
]


class Options(QuantizeOptions):
    """Options of `quantize.experts`."""

    method: str = Field("gptq", description="rtn, hqq, gptq, or another registered method")
    bits: Bits = Field(4, description="1 to 8, or a mapping of gate, up, down and default")
    weighting: Weighting = Field(
        "routing", description="how much a token counts in Hessians: by its routing weight, or none: all the same"
    )

    def spec_of(self, projection: Projection) -> AffineSpec:
        """How the experts' matrices of one kind are stored."""
        bits = self.bits if isinstance(self.bits, int) else self.bits.of(projection)
        if bits is None:
            raise ValueError(f"No bits for {projection}.")
        return self.spec(bits)


def apply(layer: LayerWeights, options: Options, plan: Any, context: PassContext) -> LayerWeights:
    """The layer with every expert encoded; layers without routed experts stay as they are."""
    if not layer.experts or layer.index is None:
        return layer
    hessians = _hessians(layer.index, options, context)
    outcomes = [
        _quantize_expert(_matrices(layer, expert), options, hessians, expert) for expert in range(len(layer.experts))
    ]
    experts = tuple({projection: outcome.weight for projection, outcome in found.items()} for found in outcomes)
    claims = {expert_parameter(layer.index, e, p): NAME for e, found in enumerate(experts) for p in found}
    context.note(_note(options, outcomes, hessians))
    return layer.with_experts(experts, claims)


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


def _quantize_expert(
    weights: Mapping[Projection, torch.Tensor], options: Options, hessians: ExpertHessians | None, expert: int
) -> dict[Projection, Outcome]:
    """One expert: gate and up under the Gram of their inputs, then down under that of its quantized inputs."""
    inner: dict[Projection, torch.Tensor] = {p: weight for p, weight in weights.items() if p != "down"}
    found = _quantize_together(inner, options, hessians.inner(expert) if hessians else None)
    hessian = None
    if hessians:
        gate = _values(found["gate"]) if "gate" in found else None
        hessian = hessians.middle(expert, gate, _values(found["up"]))
    return {**found, **_quantize_together({"down": weights["down"]}, options, hessian)}


def _quantize_together(
    weights: Mapping[Projection, torch.Tensor], options: Options, hessian: torch.Tensor | None
) -> dict[Projection, Outcome]:
    """Matrices with the same inputs; those with the same spec are solved in one go."""
    found: dict[Projection, Outcome] = {}
    for spec in dict.fromkeys(options.spec_of(projection) for projection in weights):
        mine = [projection for projection in weights if options.spec_of(projection) == spec]
        found.update(zip(mine, encode([weights[p] for p in mine], spec, hessian, options), strict=True))
    return found


def _values(outcome: Outcome) -> torch.Tensor:
    return torch.from_numpy(codec_of(outcome.weight.spec).dequantize(outcome.weight))


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
        "summary": _summary(options, rows),
        "method": options.method,
        "measure": "output" if hessians else "weight",
        "specs": {projection: options.spec_of(projection).key for projection in outcomes[0]},
        "experts": rows,
    }


def _summary(options: Options, rows: list[dict[str, Any]]) -> str:
    measure = "output" if "tokens" in rows[0] else "weight"
    parts = []
    for projection in rows[0]["error"]:
        errors = [row["error"][projection] for row in rows]
        bits = options.spec_of(projection).bits
        parts.append(f"{projection} {bits} bit {sum(errors) / len(errors):.4f} (worst {max(errors):.4f})")
    text = f"{options.method}, relative {measure} error: {', '.join(parts)}"
    if "tokens" in rows[0]:
        fewest = min(range(len(rows)), key=lambda expert: rows[expert]["tokens"])
        text += f"; fewest tokens {rows[fewest]['tokens']} (expert {fewest}, own Gram {rows[fewest]['lam']:.2f})"
    remarks = sum(bool(row["remarks"]) for row in rows)
    return text + (f"; {remarks} experts with remarks" if remarks else "")


def _planned_spec(options: Options, plan: Any, name: str, role: Role | None, shape: tuple[int, ...]) -> Any:
    """The spec of an expert's matrix; None for everything outside the experts."""
    projection = name.rsplit(".", 1)[-1]
    return options.spec_of(projection) if role is None and projection in PROJECTIONS else None


def _needs(options: Options) -> frozenset[str]:
    if not options.solver.needs_hessian:
        return frozenset()
    return frozenset({"count", "inputs", "top_k_index", "top_k_weights", "gram_layer", "gram_mid_layer"})


PASS = Pass(options=Options, stage="quantize", apply=apply, needs=_needs, planned_spec=_planned_spec)
