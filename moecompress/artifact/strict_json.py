"""JSON from files that nobody vouches for: one meaning per text, or an error."""

from __future__ import annotations

import json
import math
from typing import Any

from moecompress.core.errors import ArtifactError

MAX_DEPTH = 64


def loads(data: bytes, where: str) -> Any:
    """The value of UTF-8 JSON. Raises ArtifactError for duplicate keys, NaN, infinities, half characters, or nesting
    beyond 64."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ArtifactError(f"{where}: JSON nested deeper than {MAX_DEPTH}.") from error
    except ValueError as error:
        raise ArtifactError(f"{where} is not valid JSON: {error}.") from error
    if _depth(value) > MAX_DEPTH:
        raise ArtifactError(f"{where}: JSON nested deeper than {MAX_DEPTH}.")
    if b"\\ud" in data.lower() and not _has_utf8(value):
        raise ArtifactError(f"{where} is not valid JSON: half of a surrogate pair stands alone.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:200]!r} appears twice in one object")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _has_utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [child for item in level for child in _children(item)]
    return deepest


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
