"""Real text to measure on, without torch: the builtin held-out documents or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moecompress.core.apart import apart
from moecompress.core.errors import UsageError

_CHARACTERS_PER_TOKEN = 8  # more than text has, so that a passage gives enough tokens
_BUILTIN = """
from moecompress.calibration.builtin import builtin_passages
print(json.dumps(builtin_passages("heldout", *given)))
"""


def read_passages(text: Path | None, count: int, tokens: int) -> list[str]:
    """`count` passages that should give at least `tokens` tokens each. Raises UsageError for a text too short."""
    characters = _CHARACTERS_PER_TOKEN * tokens
    if text is None:
        found = apart(_BUILTIN, count, characters)
    else:
        with text.open(encoding="utf-8", errors="replace") as file:
            found = [passage for passage in (file.read(characters) for _ in range(count)) if len(passage) == characters]
        found = found or [text.read_text(encoding="utf-8", errors="replace")]
    return [found[index % len(found)] for index in range(count)] if found else []


def encode_passages(encode: Callable[[str], list[int]], passages: list[str], tokens: int) -> list[list[int]]:
    """The first `tokens` ids of each passage."""
    rows = [encode(passage)[:tokens] for passage in passages]
    shortest = min(map(len, rows), default=0)
    if shortest < tokens:
        raise UsageError(
            f"The text gives passages of {shortest} tokens, but {tokens} are needed. Give a longer --text, or fewer "
            "--prompt-tokens and --tokens."
        )
    return rows
