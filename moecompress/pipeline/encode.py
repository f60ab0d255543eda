"""Weights that no pass quantized are written as they are: bf16 stays bf16, everything else becomes float32."""

from __future__ import annotations

from typing import Literal

import torch

from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import DenseSpec
from moecompress.core.types import Role
from moecompress.passes.base import Weight


def dense_dtype(dtype: torch.dtype) -> Literal["bf16", "f32"]:
    """The dense codec's dtype for a source dtype: float16 widens to float32, which holds it exactly."""
    return "bf16" if dtype == torch.bfloat16 else "f32"


def keep(weight: Weight, role: Role | None = None) -> EncodedWeight:
    """`weight` unchanged in value, in a form that can be packed; what a pass already encoded is returned as it is."""
    if isinstance(weight, EncodedWeight):
        return weight
    if dense_dtype(weight.dtype) == "bf16":
        values = weight.contiguous().view(torch.uint16).numpy()
        return EncodedWeight(DenseSpec(dtype="bf16"), tuple(weight.shape), {"weight": values})
    return EncodedWeight(DenseSpec(dtype="f32"), tuple(weight.shape), {"weight": weight.float().contiguous().numpy()})
