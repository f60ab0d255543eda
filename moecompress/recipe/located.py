"""YAML that remembers where each value was written, and refuses duplicate keys.

`read_yaml` gives plain values plus `Lines`, a map from a path such as `("passes", 0, "quantize.experts")` to the
file and line, so that any later error can point at its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moecompress.core.errors import RecipeError

Key = str | int
KeyPath = tuple[Key, ...]


@dataclass
class Lines:
    """Where values were written: key path → (file, line starting at 1)."""

    places: dict[KeyPath, tuple[str, int]] = field(default_factory=dict)

    def at(self, path: KeyPath) -> str:
        """`file:line` of the value, or of the nearest enclosing value that was written somewhere."""
        while path and path not in self.places:
            path = path[:-1]
        file, line = self.places.get(path, ("recipe", 1))
        return f"{file}:{line}"

    def moved(self, old: KeyPath, new: KeyPath) -> dict[KeyPath, tuple[str, int]]:
        """The places below `old`, re-rooted at `new`."""
        return {new + path[len(old) :]: place for path, place in self.places.items() if path[: len(old)] == old}


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """Plain values of a YAML file and their places. Raises RecipeError for bad YAML, tags or duplicate keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"Cannot read {path}: {error.strerror}. Give the path of a YAML recipe.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> tuple[Any, Lines]:
    """Like `read_yaml`, for text that is already in memory; `file` is the name used in errors."""
    lines = Lines()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else file
        raise RecipeError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    loader = yaml.SafeLoader("")
    return (None if node is None else _value(node, (), lines, file, loader)), lines


def _value(node: yaml.Node, path: KeyPath, lines: Lines, file: str, loader: yaml.SafeLoader) -> Any:
    lines.places[path] = (file, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, i), lines, file, loader) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines, file, loader)
    try:
        return loader.construct_object(node)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{lines.at(path)}: {node.value!r} is not a plain value ({node.tag} is not allowed)."
        ) from error


def _mapping(
    node: yaml.MappingNode, path: KeyPath, lines: Lines, file: str, loader: yaml.SafeLoader
) -> Mapping[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node)
        if type(key) is int:
            key = str(key)
        if not isinstance(key, str):
            raise RecipeError(f"{file}:{line}: keys are words or whole numbers; {key!r} is a {type(key).__name__}.")
        if key in result:
            raise RecipeError(f"{file}:{line}: the key {key!r} is written twice; keep one.")
        result[key] = _value(value_node, (*path, key), lines, file, loader)
        lines.places[(*path, key)] = (file, line)
    return result
