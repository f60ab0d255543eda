"""The options that quantizing passes share: a method with its own options, a group size, and bits by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import UsageError
from moecompress.core.registry import nearest
from moecompress.passes.base import PassOptions
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized
from moecompress.passes.quantize.methods.table import method_named

BitWidth = Annotated[StrictInt, Field(ge=1, le=8)]
GroupSize = Literal[32, 64, 128]


@dataclass(frozen=True)
class Solver:
    """A method with its options: all that is needed to turn a matrix into codes."""

    name: str
    method: Method
    options: MethodOptions

    @classmethod
    def named(cls, name: str, options: Mapping[str, Any] | None = None) -> Solver:
        """The method of that name with options as a recipe gives them. Raises UsageError for an unknown name."""
        method = method_named(name)
        return cls(name, method, method.options.model_validate(dict(options or {})))

    @property
    def needs_hessian(self) -> bool:
        """Whether it wants the Gram of its inputs."""
        return self.method.needs_hessian

    def __call__(self, weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor | None = None) -> Quantized:
        """Solve for `weight` `[out, in]`; see `Method`."""
        return self.method(weight, spec, hessian, self.options)


class RoleBits(BaseModel):
    """Bits by role; a role that is not named has `default` bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    default: BitWidth | None = Field(None, description="for those not named")

    @model_validator(mode="before")
    @classmethod
    def _roles_are_known(cls, values: Any) -> Any:
        known = list(cls.model_fields)
        for key in values if isinstance(values, Mapping) else ():
            if key not in known:
                raise ValueError(f"there is no role {key!r}.{nearest(str(key), known)}")
        return values

    def of(self, role: str) -> int | None:
        """The bits of a role, None when neither it nor a default is given."""
        own: int | None = getattr(self, role, None)
        return self.default if own is None else own


def kind_of_bits(value: Any) -> str:
    """Which branch of `bits` a recipe means: a number, or a mapping by role. So errors speak of that branch only."""
    return "RoleBits" if isinstance(value, Mapping | RoleBits) else "int"


class QuantizeOptions(PassOptions):
    """Base of the options of quantizing passes."""

    method: str = Field(description="rtn, hqq, gptq, or another registered method")
    group_size: GroupSize = Field(64, description="columns that share a scale and a minimum: 32, 64 or 128")
    method_options: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="options of the method, see the method's table"
    )

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, name: str) -> str:
        try:
            method_named(name)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return name

    @field_validator("method_options")
    @classmethod
    def _method_knows_its_options(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """The method's options with their defaults written out, so that a recipe records what was used."""
        if "method" not in info.data:
            return values
        known = method_named(info.data["method"]).options
        try:
            return known.model_validate(values).model_dump(mode="json")
        except ValidationError as error:
            raise ValueError(_sentence(info.data["method"], known, error)) from error

    @property
    def solver(self) -> Solver:
        """The method with its options."""
        return Solver.named(self.method, self.method_options)

    def spec(self, bits: int) -> AffineSpec:
        """How a weight of so many bits is stored."""
        return AffineSpec(bits=bits, group_size=self.group_size)


def _sentence(method: str, known: type[MethodOptions], error: ValidationError) -> str:
    detail = error.errors()[0]
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        names = list(known.model_fields)
        hint = nearest(key, names) if names else f" {method} has no options."
        return f"{method} has no option {key!r}.{hint}"
    return f"{key} of {method}: {detail['msg']} (it is {detail['input']!r})"
