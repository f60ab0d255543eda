"""The one table that every run prints: original and artifact side by side, size first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from moecompress.core.units import format_size


@dataclass(frozen=True)
class Row:
    """Figures of one model; None where a figure does not apply or was not measured."""

    name: str
    bytes: int
    bits_per_weight: float
    perplexity: float | None = None
    stderr: float | None = None
    kl_mean: float | None = None
    top1_agreement: float | None = None
    tokens_per_s: float | None = None
    peak_rss_bytes: int | None = None


HEADINGS = ("model", "bytes on disk", "bits/weight", "perplexity", "mean KL", "same top-1", "tokens/s", "peak RSS")


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row under HEADINGS."""
    return (
        row.name,
        f"{row.bytes:,}",
        f"{row.bits_per_weight:.2f}",
        "–" if row.perplexity is None else f"{row.perplexity:.3f} ± {row.stderr or 0:.3f}",
        "–" if row.kl_mean is None else f"{row.kl_mean:.4f}",
        "–" if row.top1_agreement is None else f"{row.top1_agreement:.1%}",
        "–" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}",
        "–" if row.peak_rss_bytes is None else format_size(row.peak_rss_bytes),
    )


def terminal_table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    table = Table(*HEADINGS, box=None)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        table.add_row(*cells(row))
    return table
