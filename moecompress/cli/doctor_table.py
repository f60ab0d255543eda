"""The report of `doctor` as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from moecompress.cli.screen import stdout
from moecompress.core.units import format_size, format_speed


def show(report: Mapping[str, Any]) -> None:
    """Print the machine, the disk and the artifact, and the verdict last."""
    table = Table(show_header=False, box=None)
    rows = _machine(report["machine"])
    if "disk" in report:
        rows += [*_disk(report["disk"]), *_artifact(report["artifact"])]
    for name, text in rows:
        table.add_row(name, text)
    stdout.print(table)
    if "artifact" in report:
        stdout.print(_budgets(report["artifact"]))
    stdout.print(f"\n{report['verdict']}", markup=False)


def _machine(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory, cores = machine["memory"], machine["cores"]
    speeds = [f"{speed / 1e9:.1f} GB/s on {threads}" for threads, speed in machine["read_speed_bytes_per_s"].items()]
    rows = [
        ("system", machine["system"]),
        ("instruction sets", ", ".join(map(_path, machine["instruction_sets"]))),
        ("cores", f"{cores['usable']} of {cores['present']}"),
        ("memory", f"{format_size(memory['available_bytes'])} free; budget {format_size(memory['budget_bytes'])}"),
        ("memory read speed", f"{', '.join(speeds)} threads"),
    ]
    for group in memory["groups"]:
        limit = f"{format_size(group['limit'])}, {format_size(group['used'])} of it in use ({group['folder']})"
        rows.append(("control group", limit))
    return rows


def _path(path: Mapping[str, Any]) -> str:
    if path["chosen"]:
        return f"{path['name']} (used)"
    return path["name"] if not path["refusal"] else f"no {path['name']}: {path['refusal']}"


def _disk(disk: Mapping[str, Any]) -> list[tuple[str, str]]:
    how = "direct reads work" if disk["direct"] else "no direct reads: the page cache is used and dropped"
    pieces = sorted({rate["piece_bytes"] for rate in disk["rates"]})
    lines = [("disk", how if pieces else f"{how}; the files are too short to measure")]
    for piece in pieces:
        cells = [rate for rate in disk["rates"] if rate["piece_bytes"] == piece]
        speeds = ", ".join(f"{cell['bytes_per_s'] / 1e6:.0f} MB/s on {cell['lanes']}" for cell in cells)
        lines.append((f"reads of {format_size(piece)}", f"{speeds} lanes"))
    return lines


def _artifact(artifact: Mapping[str, Any]) -> list[tuple[str, str]]:
    floor, resident = format_size(artifact["floor_bytes"]), format_size(artifact["resident_bytes"])
    needs = artifact["token_set"]
    return [
        ("artifact needs", f"at least {floor}; {resident} keeps every expert (context {artifact['context']})"),
        ("a token needs", f"{needs['experts']} of {artifact['experts']} experts, {format_size(needs['bytes'])}"),
        ("and touches", f"{format_size(artifact['weights_bytes_per_token'])} of weights"),
    ]


def _budgets(artifact: Mapping[str, Any]) -> Table:
    table = Table(
        "budget", "experts kept", "token sets", "hits (est.)", "read per token (est.)", "tokens/s (est.)", box=None
    )
    for row in artifact["budgets"]:
        speed = row["tokens_per_s_estimate"]
        table.add_row(
            format_size(row["budget_bytes"]),
            f"{row['slots']}{' (all)' if row['resident'] else ''}",
            f"{row['token_sets']:.1f}",
            f"{row['hit_rate_estimate']:.0%}",
            format_size(row["bytes_per_token_estimate"]),
            "–" if speed is None else format_speed(speed),
        )
    return table
