"""Sizes in bytes, parsed from `600MiB` or `2GB` and printed with binary units; shares, parsed from `2%` or `0.02`."""

from __future__ import annotations

import re

from moecompress.core.errors import UsageError

_FACTORS = {
    "": 1, "b": 1,
    "k": 1024, "kib": 1024, "kb": 1000,
    "m": 1024**2, "mib": 1024**2, "mb": 1000**2,
    "g": 1024**3, "gib": 1024**3, "gb": 1000**3,
    "t": 1024**4, "tib": 1024**4, "tb": 1000**4,
}  # fmt: skip
_SHARE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Bytes meant by `text`, for example 600MiB, 2GB, 4096. Raises UsageError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise UsageError(f"A size cannot be negative: {text}. Write for example 600MiB.")
        return text
    match = _SIZE.fullmatch(str(text))
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size. Write a number with B, KiB, MiB, GiB, KB, MB or GB, such as 600MiB.")
    return int(float(match.group(1)) * factor)


def parse_share(text: str | float) -> float:
    """The part of a whole meant by `text`: 0.02, "0.02" or "2%". Raises UsageError for anything else."""
    if isinstance(text, int | float) and not isinstance(text, bool) and text >= 0:
        return float(text)
    match = _SHARE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UsageError(f"{text!r} is not a share. Write a number such as 0.02, or a percentage such as 2%.")
    return float(match.group(1)) / (100 if match.group(2) else 1)


def format_size(count: int | float) -> str:
    """`count` bytes as a short text with three significant digits, for example 12.3 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return (
                f"{value:.0f} {unit}"
                if unit == "B"
                else f"{value:.3g} {unit}"
                if value < 999.5
                else f"{value:.0f} {unit}"
            )
        value /= 1024
    return f"{value:.3g} TiB"


def format_speed(per_second: float) -> str:
    """A speed with at least three significant digits and no more decimals than that takes, such as 1740 or 12.3."""
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.3g}"
