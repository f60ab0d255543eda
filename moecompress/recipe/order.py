"""Orders of passes that cannot work, refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from moecompress.core.errors import RecipeError
from moecompress.passes.base import Pass
from moecompress.recipe.located import Lines

_NEEDS_FULL_PRECISION = frozenset({"merge", "decompose", "smooth"})


def check_order(names: Sequence[str], passes: Sequence[Pass], lines: Lines) -> None:
    """Raises RecipeError when a pass changes weights that an earlier pass has already turned into codes."""
    quantized: dict[str, int] = {}
    for position, (name, definition) in enumerate(zip(names, passes, strict=True)):
        place = lines.at(("passes", position))
        if name in quantized:
            raise RecipeError(
                f"{place}: {name} already ran as pass {quantized[name]}; quantized weights cannot be quantized again. "
                "Keep one of the two."
            )
        if definition.stage in _NEEDS_FULL_PRECISION and quantized:
            first = min(quantized, key=lambda other: quantized[other])
            raise RecipeError(
                f"{place}: {name} changes full-precision weights, but {first} (pass {quantized[first]}) has already "
                f"quantized them. Put {name} before {first}."
            )
        if definition.stage == "quantize":
            quantized[name] = position
