"""The contract of a quantization method: one matrix in, its codes, scales and minima out.

A method file defines its options (a `MethodOptions`), `solve`, and `METHOD = Method(...)`; its name in recipes is the
file's name. `solve(weight, spec, hessian, options)` may trust its arguments, which `Method` has checked, and must not
change them; the weight is in the source's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.core.errors import CalibrationError, SourceError, UsageError

FLOAT16_MAX = 65504.0


class MethodOptions(BaseModel):
    """Options of a method, as written under `method_options`. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Quantized:
    """What a method found: `codes` uint8 `[out, in]`, `scale` and `minimum` float16 `[out, G]`.

    `remark` says in words when the method had to do something else than its name promises; empty otherwise.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor
    remark: str = ""

    @classmethod
    def stacked(cls, parts: Sequence[Quantized]) -> Quantized:
        """One matrix above the other, with the remarks of all."""
        codes = torch.cat([part.codes for part in parts])
        scale, minimum = (torch.cat([getattr(part, name) for part in parts]) for name in ("scale", "minimum"))
        return cls(codes, scale, minimum, "; ".join(dict.fromkeys(part.remark for part in parts if part.remark)))

    def rows(self, part: slice) -> Quantized:
        """Some of the rows."""
        return Quantized(self.codes[part], self.scale[part], self.minimum[part], self.remark)

    def values(self, group_size: int) -> torch.Tensor:
        """The weights the codes stand for, float32 `[out, in]`."""
        columns = self.codes.shape[1]
        scale = self.scale.float().repeat_interleave(group_size, 1)[:, :columns]
        return (self.codes * scale).add_(self.minimum.float().repeat_interleave(group_size, 1)[:, :columns])

    def encoded(self, spec: AffineSpec) -> EncodedWeight:
        """As a weight of the affine codec."""
        arrays = {"codes": self.codes, "scale": self.scale, "minimum": self.minimum}
        plain = {name: array.contiguous().numpy() for name, array in arrays.items()}
        return EncodedWeight(spec, tuple(self.codes.shape), plain)


Solve = Callable[[torch.Tensor, AffineSpec, Any, Any], Quantized]


@dataclass(frozen=True)
class Method:
    """A registered method: its options, whether it wants the Gram of its inputs, and the function that solves."""

    options: type[MethodOptions]
    solve: Solve
    needs_hessian: bool = False

    def __call__(
        self,
        weight: torch.Tensor,
        spec: AffineSpec,
        hessian: torch.Tensor | None = None,
        options: MethodOptions | None = None,
    ) -> Quantized:
        """Solve for `weight` `[out, in]`; `hessian` is the mean of x xᵀ over its inputs, `[in, in]`, of any scale.

        Raises SourceError for weights that are not finite or beyond float16, CalibrationError for a bad Hessian.
        """
        _check_weight(weight, spec)
        if self.needs_hessian:
            _check_hessian(hessian, weight.shape[1])
        with torch.no_grad():
            return self.solve(weight, spec, hessian, self.options() if options is None else options)

    def quantize(
        self,
        weight: torch.Tensor,
        spec: AffineSpec,
        hessian: torch.Tensor | None = None,
        options: MethodOptions | None = None,
    ) -> EncodedWeight:
        """The same as an encoded weight."""
        return self(weight, spec, hessian, options).encoded(spec)


def _check_weight(weight: torch.Tensor, spec: AffineSpec) -> None:
    if weight.ndim != 2 or not weight.numel():
        raise UsageError(f"Only matrices can be quantized; this tensor has shape {list(weight.shape)}.")
    largest = float(weight.abs().max())
    if not torch.isfinite(weight).all():
        raise SourceError(f"A weight of shape {list(weight.shape)} holds NaN or infinity and cannot be quantized.")
    allowed = FLOAT16_MAX * min(1.0, (2**spec.bits - 1) / 2)
    if largest > allowed:
        raise SourceError(
            f"A weight of shape {list(weight.shape)} has an entry of magnitude {largest:g}; scale and minimum are "
            f"float16, so {spec.key} overflows beyond {allowed:g}. Leave this tensor unquantized."
        )


def _check_hessian(hessian: torch.Tensor | None, columns: int) -> None:
    if hessian is None or tuple(hessian.shape) != (columns, columns):
        got = "none" if hessian is None else str(list(hessian.shape))
        raise CalibrationError(f"This method needs a Hessian of shape [{columns}, {columns}]; it was given {got}.")
    if not torch.isfinite(hessian).all() or bool((hessian.diagonal() < 0).any()):
        raise CalibrationError(
            "A Hessian holds NaN, infinity or a negative diagonal entry: the activations behind it overflowed. "
            "Collect the statistics again."
        )
