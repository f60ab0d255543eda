"""The figures of `bench` as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from moecompress.cli.screen import stdout
from moecompress.core.units import format_size


def show(report: Mapping[str, Any]) -> None:
    """Print the report of one benchmark."""
    table = Table(show_header=False, box=None)
    for name, figure in _rows(report):
        table.add_row(name, figure)
    stdout.print(table)


def _rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    weights, disk, memory = report["weights"], report["disk"], report["memory"]
    read = "direct reads" if disk["direct"] else "through the page cache"
    agree = "agrees" if disk["agree"] else "does not agree"
    return [
        ("prefill", f"{_spread(report['prefill_tokens_per_s'])} tokens/s ({report['prompt_tokens']} tokens)"),
        ("first token", f"{_spread(report['seconds_to_first_token'], 3)} s"),
        ("decode", f"{_spread(report['decode_tokens_per_s'])} tokens/s ({report['tokens']} tokens)"),
        (
            "weights per token",
            f"{format_size(weights['bytes_per_token'])} (trunk {format_size(weights['trunk_bytes'])}, experts "
            f"{format_size(weights['expert_bytes'])})",
        ),
        (
            "memory speed",
            f"{weights['share_of_read_speed']:.0%} of {weights['read_speed_bytes_per_s'] / 1e9:.1f} GB/s "
            f"({report['threads']} threads, {report['isa']})",
        ),
        ("experts", _experts(report["experts"])),
        (
            "read per token",
            f"{format_size(disk['bytes_per_token'])}, {read}; the kernel counts "
            f"{format_size(disk['process_bytes_per_token'])} and {agree}",
        ),
        (
            "peak memory",
            f"{format_size(memory['peak_rss_bytes'])} of {format_size(memory['budget_bytes'])}"
            + ("" if memory["held"] else ": over the budget"),
        ),
        ("measured", f"{report['repeats']} runs after one that warmed the expert cache; median (least to most)"),
    ]


def _spread(figure: Mapping[str, float], digits: int = 1) -> str:
    return f"{figure['median']:.{digits}f} ({figure['least']:.{digits}f} to {figure['most']:.{digits}f})"


def _experts(counts: Mapping[str, Any]) -> str:
    if counts["hit_rate"] is None:
        return "none were looked up"
    wasted = f"; {counts['wasted_reads']} of {counts['speculative_reads']} read ahead in vain"
    return (
        f"{counts['hit_rate']:.1%} in memory, {counts['speculative_hit_rate']:.1%} read ahead, "
        f"{counts['miss_rate']:.1%} read on demand" + (wasted if counts["speculative_reads"] else "")
    )
