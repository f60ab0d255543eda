"""`--set a.b=c`: one value of a recipe replaced from the command line.

A path is keys and list positions joined by dots. Pass names contain dots themselves, so at each mapping the longest run
of segments that is a key wins: `passes.0.quantize.experts.bits=3` finds `quantize.experts`.
"""

from __future__ import annotations

from typing import Any

from moecompress.core.errors import RecipeError
from moecompress.recipe.located import KeyPath, Lines, parse_yaml


def apply_override(values: dict[str, Any], lines: Lines, text: str) -> None:
    """Set one value in place. Raises RecipeError for a missing `=`, a bad position, or a path through a plain value."""
    path_text, equals, value_text = text.partition("=")
    if not equals or not path_text:
        raise RecipeError(f"--set takes key=value, such as passes.0.quantize.experts.bits=3; this is {text!r}.")
    value, _ = parse_yaml(value_text, f"--set {path_text}")
    _set(values, path_text.split("."), value, (), lines, text)


def _set(node: Any, segments: list[str], value: Any, path: KeyPath, lines: Lines, text: str) -> None:
    key, rest = _step(node, segments, text)
    if not rest:
        node[key] = value
        lines.places[(*path, key)] = (f"--set {text}", 1)
        return
    if isinstance(node, dict) and (key not in node or node[key] is None):
        node[key] = {}
    _set(node[key], rest, value, (*path, key), lines, text)


def _step(node: Any, segments: list[str], text: str) -> tuple[Any, list[str]]:
    if isinstance(node, list):
        position = segments[0]
        if not position.isdigit() or int(position) >= len(node):
            raise RecipeError(
                f"--set {text}: {position!r} is not a position of a list of {len(node)}; they start at 0."
            )
        return int(position), segments[1:]
    if not isinstance(node, dict):
        raise RecipeError(f"--set {text}: {'.'.join(segments)!r} lies below {node!r}, which has no keys.")
    for count in range(len(segments), 0, -1):
        key = ".".join(segments[:count])
        if key in node:
            return key, segments[count:]
    return segments[0], segments[1:]
