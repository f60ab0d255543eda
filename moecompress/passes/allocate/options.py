"""What every allocator lets a recipe write under `bits`: the budget, the choices, the floors, the solver.

    bits: {allocate: gemq, average: 2.5, choices: [1, 2, 3, 4], floors: {down: 3, first_layers: {2: 4}}}

`average` is in effective bits: scales, minima and the alignment of records are in it. `size` is what all expert files
take on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from moecompress.codecs.affine import AffineSpec
from moecompress.core.fields import Size
from moecompress.core.types import Projection
from moecompress.passes.quantize._options import BitWidth, GroupSize, RoleBits


class Form(BaseModel):
    """A choice with a group size of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: BitWidth
    group_size: GroupSize


def _kind_of_choice(value: Any) -> str:
    return "Form" if isinstance(value, Mapping | Form) else "int"


Choice = Annotated[Annotated[BitWidth, Tag("int")] | Annotated[Form, Tag("Form")], Discriminator(_kind_of_choice)]


class Floors(RoleBits):
    """The fewest bits by projection and by place: `{down: 3, first_layers: {2: 4}}` gives layers 0 and 1 four."""

    gate: BitWidth | None = Field(None, description="fewest bits of every gate")
    up: BitWidth | None = Field(None, description="fewest bits of every up")
    down: BitWidth | None = Field(None, description="fewest bits of every down")
    first_layers: dict[int, BitWidth] = Field(default_factory=dict, description="count of MoE layers → fewest bits")
    last_layers: dict[int, BitWidth] = Field(default_factory=dict, description="count of MoE layers → fewest bits")

    def least(self, projection: Projection, position: int, layers: int) -> int:
        """The fewest bits that a projection may have in the MoE layer at `position` of `layers`."""
        found = [self.of(projection) or 1]
        found += [bits for count, bits in self.first_layers.items() if position < count]
        found += [bits for count, bits in self.last_layers.items() if position >= layers - count]
        return max(found)


class AllocationOptions(BaseModel):
    """Options that every allocator has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    budgets: ClassVar[tuple[str, ...]] = ("average", "size")

    allocate: str = Field(description="the allocator's name")
    choices: tuple[Choice, ...] = Field(
        (1, 2, 3, 4), min_length=1, description="bit widths to choose from; {bits, group_size} for other groups"
    )
    average: float | None = Field(None, gt=0, description="average bits per weight that all experts may take")
    size: Size | None = Field(None, description="what all expert files may take on disk (400MiB)")
    count: Literal["effective", "nominal"] = Field(
        "effective", description="whether average counts scales, minima and alignment, or the bare bits"
    )
    floors: Floors = Field(Floors(), description="fewest bits by projection and by place")
    solver: Literal["lagrangian", "milp"] = Field(
        "lagrangian", description="lagrangian: fast, within one choice of the optimum; milp: exact, through HiGHS"
    )

    @field_validator("choices")
    @classmethod
    def _choices_differ(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(choices)) < len(choices):
            raise ValueError("a choice is named twice; name each once")
        return choices

    @field_validator("average")
    @classmethod
    def _average_is_within_reach(cls, average: float | None, info: ValidationInfo) -> float | None:
        """What can be told without the model; the exact check comes with the shapes."""
        least = min(
            (choice if isinstance(choice, int) else choice.bits for choice in info.data.get("choices", ())), default=0
        )
        if average is not None and average < least:
            raise ValueError(
                f"the smallest of the choices has {least} bits, so experts cannot have {average} on average; "
                "offer a smaller choice or raise the average"
            )
        return average

    @model_validator(mode="after")
    def _one_budget(self) -> AllocationOptions:
        given = [name for name in self.budgets if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"{self.allocate} needs one budget, {' or '.join(self.budgets)}; it was given {got}")
        return self

    def levels(self, group_size: GroupSize) -> tuple[AffineSpec, ...]:
        """The choices as stored forms, the smallest first; those without a group size take the pass's."""
        forms = {
            AffineSpec(bits=choice, group_size=group_size)
            if isinstance(choice, int)
            else AffineSpec(bits=choice.bits, group_size=choice.group_size)
            for choice in self.choices
        }
        return tuple(sorted(forms, key=lambda spec: (spec.bits + 32 / spec.group_size, spec.bits)))
