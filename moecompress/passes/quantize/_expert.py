"""One expert's matrices to codes: gate and up under the Gram of their inputs, then down under that of its quantized
inputs, so that it makes up for part of their error (MoEQuant's order, arXiv 2505.03804)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import codec_of
from moecompress.core.errors import UsageError
from moecompress.core.types import Projection
from moecompress.passes.quantize._encode import Outcome, encode
from moecompress.passes.quantize._hessians import ExpertHessians
from moecompress.passes.quantize._options import Solver

Specs = Mapping[Projection, AffineSpec]


def quantize_expert(
    weights: Mapping[Projection, torch.Tensor],
    specs: Specs,
    solver: Solver,
    hessians: ExpertHessians | None,
    expert: int,
) -> dict[Projection, Outcome]:
    """Gate (if there is one), up and down of one expert, each stored by its spec."""
    inner: dict[Projection, torch.Tensor] = {p: weight for p, weight in weights.items() if p != "down"}
    found = _together(inner, specs, solver, hessians.inner(expert) if hessians else None)
    hessian = None
    if hessians:
        gate = values_of(found["gate"]) if "gate" in found else None
        hessian = hessians.middle(expert, gate, values_of(found["up"]))
    return {**found, **_together({"down": weights["down"]}, specs, solver, hessian)}


def _together(
    weights: Mapping[Projection, torch.Tensor], specs: Specs, solver: Solver, hessian: torch.Tensor | None
) -> dict[Projection, Outcome]:
    """Matrices with the same inputs; those with the same spec are solved in one go."""
    found: dict[Projection, Outcome] = {}
    for spec in dict.fromkeys(specs[projection] for projection in weights):
        mine = [projection for projection in weights if specs[projection] == spec]
        found.update(zip(mine, encode([weights[p] for p in mine], spec, hessian, solver), strict=True))
    return found


def rounded_values(weight: torch.Tensor, spec: CodecSpec, solver: Solver, hessian: torch.Tensor | None) -> torch.Tensor:
    """What a matrix `[out, in]` becomes when it is stored by `spec`, float32."""
    return values_of(encode([weight], as_affine(spec), hessian, solver)[0])


def as_affine(spec: CodecSpec) -> AffineSpec:
    """The spec, which the methods must know. Raises UsageError for a codec they do not write."""
    if not isinstance(spec, AffineSpec):
        raise UsageError(f"Quantization methods write affine codes; {spec.key} is none.")
    return spec


def values_of(outcome: Outcome) -> torch.Tensor:
    """The matrix that an encoded one stands for, float32."""
    return torch.from_numpy(codec_of(outcome.weight.spec).dequantize(outcome.weight))
