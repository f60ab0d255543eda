"""Second-order sensitivity of each matrix to its own rounding: `trace`.

For the layer-wise loss ‖(W − Ŵ) X‖² the Hessian is I ⊗ G with G the mean of x xᵀ over the expert's tokens, so its trace
is exactly rows · Tr G and needs no probing vectors; per weight, times the squared rounding error (HAWQ-V2, MoPEQ
arXiv 2509.02512):  rows · Tr G / (rows · columns) · ‖W − Ŵ‖². An expert without tokens takes the layer's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from moecompress.calibration.statistics import LayerStatistics, expert_hidden
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import parse_spec
from moecompress.core.errors import CalibrationError
from moecompress.core.types import Projection
from moecompress.passes.base import LayerWeights, PassContext, dense
from moecompress.passes.quantize._expert import rounded_values
from moecompress.passes.quantize._options import Solver
from moecompress.passes.sensitivity.base import Probe, Sensitivity

NEEDS = frozenset({"count", "inputs", "top_k_index"})
_TOKENS = 2048


def probe(spec: CodecSpec, method: str = "rtn") -> Probe:
    """Rounding to `spec` by a method that needs no data."""
    return {"kind": "trace", "form": asdict(spec), "method": method}


def measure(layer: LayerWeights, probes: Sequence[Probe], context: PassContext) -> list[Any]:
    """`{projection: [E]}` for each probe."""
    if context.statistics is None:
        raise CalibrationError(f"Traces of layer {layer.index} need calibration statistics; there are none.")
    answers: list[dict[str, list[float]]] = [{} for _ in probes]
    for expert, weights in enumerate(layer.experts):
        matrices = {projection: dense(weight) for projection, weight in weights.items()}
        traces = traces_of(matrices, context.statistics, expert)
        for answer, asked in zip(answers, probes, strict=True):
            spec, solver = parse_spec(asked["form"]), Solver.named(asked["method"])
            for projection, weight in matrices.items():
                lost = float((weight - rounded_values(weight, spec, solver, None)).square().sum(dtype=torch.float64))
                answer.setdefault(projection, []).append(traces[projection] / weight.shape[1] * lost)
    return answers


def traces_of(
    matrices: Mapping[Projection, torch.Tensor], statistics: LayerStatistics, expert: int
) -> dict[Projection, float]:
    """Tr G of the inputs of each projection: the mean squared norm over (at most 2048 of) the expert's tokens."""
    rows = statistics.rows(expert)
    if not len(rows):
        rows = statistics.sample(_TOKENS)
    inputs = statistics.inputs(rows[:_TOKENS])
    middle = expert_hidden(inputs, matrices.get("gate"), matrices["up"], statistics.activation)
    inner, down = (float(values.square().sum(dtype=torch.float64)) / len(inputs) for values in (inputs, middle))
    return {projection: down if projection == "down" else inner for projection in matrices}


SENSITIVITY = Sensitivity(measure)
