"""The schema of a recipe, built from the registry of passes: a new pass file is a new key, with no edit here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moecompress.calibration.options import CalibrationOptions
from moecompress.core.errors import OptionError, RecipeError
from moecompress.core.fields import Size
from moecompress.core.registry import members
from moecompress.passes.base import Pass, PassOptions
from moecompress.recipe.located import KeyPath, Lines


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluateOptions(_Strict):
    """What is measured when the artifact is written. Text that calibration saw is refused by the evaluator."""

    suite: str | None = Field(None, description="a bundled suite (quick) or the path of a suite file")
    text: tuple[str, ...] = Field((), description="local text files, measured instead of the suite's text")
    window: int | None = Field(None, gt=1, description="tokens per window")
    windows: int | None = Field(None, gt=0, description="how many windows")


class Gates(_Strict):
    """Limits on the measured evaluation; a run that misses one fails, and its artifact is kept and marked."""

    perplexity_ratio: float | None = Field(None, gt=0, description="largest perplexity relative to the original's")
    kl_mean: float | None = Field(None, gt=0, description="largest mean KL divergence to the original, in nats")
    top1_agreement: float | None = Field(None, gt=0, le=1, description="smallest share of equal most likely tokens")


class Budget(_Strict):
    """Limits that `plan` checks before anything runs."""

    size: Size | None = Field(None, description="largest artifact, bytes on disk (600MiB)")


class Recipe(_Strict):
    """A whole recipe. `passes` holds one-key mappings {name: options}, run in order."""

    version: Literal[1]
    description: str = ""
    model: str | None = Field(None, description="folder of the checkpoint, `builtin`, or a hub id")
    seed: int = Field(0, ge=0)
    calibration: CalibrationOptions = CalibrationOptions()
    passes: tuple[Mapping[str, Mapping[str, Any] | None], ...] = Field((), description="run in order")
    evaluate: EvaluateOptions | None = None
    gates: Gates = Gates()
    budget: Budget = Budget()


@dataclass(frozen=True)
class PassStep:
    """One entry of `passes`, checked: the pass's name, the pass, its options, and where they are written."""

    name: str
    definition: Pass
    options: PassOptions
    path: KeyPath = ()
    lines: Lines = field(default_factory=Lines)

    def located(self, error: OptionError) -> RecipeError:
        """The error of an option as `file:line: key: …`."""
        path = (*self.path, *error.key)
        return RecipeError(f"{self.lines.at(path)}: {'.'.join(str(part) for part in path)}: {error}.")


def known_passes() -> dict[str, Pass]:
    """Recipe name → pass, for everything registered."""
    return members("moecompress.passes", "PASS", "moecompress.passes")
