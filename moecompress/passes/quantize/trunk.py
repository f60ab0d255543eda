"""Quantize matrices outside the routed experts: `quantize.trunk`.

By default attention, shared experts and dense feed-forward layers. Routers, embeddings and the head are protected
unless `include` names them; norms, biases and everything that is no matrix never change. `bits` is one number or a
mapping by role with a default. `gptq` uses the Gram of each linear layer's inputs where calibration has one; where
there is none (the embedding, the head) it minimises the weights' own squared error. Tensors that share storage are
encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError
from moecompress.core.types import Role
from moecompress.passes.base import LayerWeights, Pass, PassContext, TrunkWeight
from moecompress.passes.quantize._encode import Outcome, encode, full_precision, rounded
from moecompress.passes.quantize._options import BitWidth, QuantizeOptions, RoleBits, kind_of_bits

NAME = "quantize.trunk"

OpenRole = Literal["attention", "shared_expert", "dense_ffn"]
ProtectedRole = Literal["embedding", "head", "router", "other"]


class TrunkBits(RoleBits):
    """Bits by role; `default` for those not named."""

    attention: BitWidth | None = None
    shared_expert: BitWidth | None = None
    dense_ffn: BitWidth | None = None
    embedding: BitWidth | None = None
    head: BitWidth | None = None
    router: BitWidth | None = None
    other: BitWidth | None = None


Bits = Annotated[Annotated[BitWidth, Tag("int")] | Annotated[TrunkBits, Tag("RoleBits")], Discriminator(kind_of_bits)]


class Options(QuantizeOptions):
    """Options of `quantize.trunk`."""

    method: str = Field("rtn", description="rtn, hqq, gptq, or another registered method")
    bits: Bits = Field(8, description="1 to 8, or a mapping of roles and default")
    roles: tuple[OpenRole, ...] = Field(
        ("attention", "shared_expert", "dense_ffn"), description="which of attention, shared_expert, dense_ffn"
    )
    include: tuple[ProtectedRole, ...] = Field(
        (), description="protected roles to quantize as well: embedding, head, router, other"
    )

    @model_validator(mode="after")
    def _all_have_bits(self) -> Options:
        if isinstance(self.bits, TrunkBits):
            missing = [role for role in (*self.roles, *self.include) if self.bits.of(role) is None]
            if missing:
                raise ValueError(f"bits has no entry for {', '.join(missing)} and no default")
        return self

    def spec_of(self, role: Role | None, shape: tuple[int, ...]) -> AffineSpec | None:
        """How a tensor is stored, None when it is left alone."""
        if len(shape) != 2 or role is None or role not in (*self.roles, *self.include):
            return None
        bits = self.bits if isinstance(self.bits, int) else self.bits.of(role)
        return None if bits is None else self.spec(bits)


def apply(layer: LayerWeights, options: Options, plan: Any, context: PassContext) -> LayerWeights:
    """The layer with the chosen trunk matrices encoded."""
    if layer.index is not None and options.solver.needs_hessian and context.statistics is None:
        raise CalibrationError(
            f"{NAME} with {options.method} needs calibration statistics; layer {layer.index} has none."
        )
    changed: dict[str, TrunkWeight] = {}
    outcomes: dict[str, Outcome] = {}
    stored: dict[tuple[Any, ...], Outcome] = {}
    for name, item in layer.trunk.items():
        spec = options.spec_of(item.role, tuple(item.weight.shape))
        if spec is None:
            continue
        weight = full_precision(item.weight, name, NAME)
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), spec)
        if key not in stored:
            stored[key] = _quantize(name, weight, spec, options, context)
        outcomes[name] = stored[key]
        changed[name] = TrunkWeight(item.role, outcomes[name].weight)
    if not changed:
        return layer
    context.note(_note(options, outcomes))
    return layer.with_trunk(changed, dict.fromkeys(changed, NAME))


def _quantize(name: str, weight: torch.Tensor, spec: AffineSpec, options: Options, context: PassContext) -> Outcome:
    if not options.solver.needs_hessian:
        return encode([weight], spec, None, options.solver)[0]
    gram = context.statistics.trunk_gram(name) if context.statistics else None
    if gram is not None:
        return encode([weight], spec, gram, options.solver)[0]
    found = encode([weight], spec, torch.eye(weight.shape[1]), options.solver)[0]
    remark = "calibration has no Gram of its inputs: smallest squared error of the weights"
    return Outcome(found.weight, found.error, "; ".join(filter(None, (remark, found.remark))))


def _note(options: Options, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What the log says: spec, relative error and remark of each matrix."""
    errors = [outcome.error for outcome in outcomes.values()]
    tensors = {
        name: {"spec": outcome.weight.spec.key, "error": rounded(outcome.error), "remark": outcome.remark}
        for name, outcome in outcomes.items()
    }
    summary = f"{options.method}, {len(errors)} matrices, relative error {sum(errors) / len(errors):.4f}"
    return {"summary": f"{summary} (worst {max(errors):.4f})", "method": options.method, "tensors": tensors}


def _planned_spec(options: Options, plan: Any, name: str, role: Role | None, shape: tuple[int, ...]) -> Any:
    """The spec of a trunk matrix that is chosen; None for everything else."""
    return options.spec_of(role, shape)


def _needs(options: Options) -> frozenset[str]:
    return frozenset({"trunk_gram"}) if options.solver.needs_hessian else frozenset()


PASS = Pass(options=Options, stage="quantize", apply=apply, needs=_needs, planned_spec=_planned_spec)
