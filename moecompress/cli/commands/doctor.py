"""`moecompress doctor [ARTIFACT]`: what this machine has, and what an artifact would do on it. Loads no weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecompress.cli.console import print_json
from moecompress.cli.flags import EngineFlags, with_flags
from moecompress.core.units import format_size, format_speed

if TYPE_CHECKING:
    from moecompress.runtime.loading import LoadOptions


@with_flags
def COMMAND(
    engine: EngineFlags,
    artifact: Annotated[Path | None, typer.Argument(help="Folder of an artifact.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show instruction sets, cores, memory and its limits, speeds; with ARTIFACT what several budgets would give."""
    options = engine.options()
    report = examine(artifact, options)
    if json:
        print_json(report)
    else:
        from moecompress.cli.doctor_table import show

        show(report)


def examine(artifact: Path | None, options: LoadOptions) -> dict[str, Any]:
    """The whole report as plain values."""
    from moecompress.runtime.ledger import default_budget

    available = default_budget() if options.budget is None else options.budget
    # What an artifact needs is asked first: the ledger counts what this process holds.
    described = None if artifact is None else _described(artifact, options)
    machine = _machine(options, available)
    if described is None:
        verdict = f"An engine on this machine can have {format_size(available)}; name an artifact to see what it needs."
        return {"machine": machine, "verdict": verdict}
    disk = _disk(described["files"])
    outlook = _outlook(described, machine["read_speed_bytes_per_s"][str(options.threads)], disk, available)
    verdict = _verdict(outlook, available)
    return {"machine": machine, "disk": disk, "artifact": outlook, "verdict": verdict}


def _machine(options: LoadOptions, available: int) -> dict[str, Any]:
    import os
    import platform

    from moecompress.core import memory
    from moecompress.core.cgroup import memory_groups
    from moecompress.runtime import _native
    from moecompress.runtime.machine import read_speed

    groups = [{"folder": str(group.folder), "limit": group.limit, "used": group.used} for group in memory_groups()]
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "instruction_sets": _native.isa_report(),
        "cores": {"usable": len(os.sched_getaffinity(0)), "present": os.cpu_count()},
        "memory": {
            "available_bytes": memory.available_bytes(),
            "obtainable_bytes": memory.obtainable_bytes(),
            "budget_bytes": available,
            "groups": groups,
        },
        "read_speed_bytes_per_s": {str(threads): read_speed(threads) for threads in sorted({1, options.threads})},
    }


def _described(artifact: Path, options: LoadOptions) -> dict[str, Any]:
    from moecompress.artifact.manifest import TRUNK
    from moecompress.runtime.footprint import Footprint
    from moecompress.runtime.loading import demand, describe, popularity

    described = describe(artifact)
    return {
        "demand": demand(described.tables, options),
        "footprint": Footprint.of(described.tables),
        "popularity": popularity(artifact),
        "files": [artifact / TRUNK, *[artifact / layer.file for layer in described.manifest.experts]],
    }


def _disk(files: list[Path]) -> dict[str, Any]:
    from moecompress.runtime.disk import measure_disk

    report = measure_disk(files)
    rates = [vars(rate) for rate in report.rates]
    return {"file": report.file, "direct": report.direct, "rates": rates, "best_bytes_per_s": report.best}


def _outlook(described: dict[str, Any], memory_speed: float, disk: dict[str, Any], available: int) -> dict[str, Any]:
    from moecompress.runtime.forecast import Speeds, budgets, forecast
    from moecompress.runtime.ledger import plan_memory

    asked, footprint = described["demand"], described["footprint"]
    speeds = Speeds(memory_speed, disk["best_bytes_per_s"])
    chosen = budgets(asked, available)
    rows = [vars(forecast(asked, footprint, described["popularity"], speeds, budget)) for budget in chosen]
    return {
        "floor_bytes": asked.floor,
        "resident_bytes": asked.resident,
        "context": asked.context,
        "experts": footprint.experts,
        "token_set": {"experts": footprint.token_set, "bytes": footprint.record_bytes},
        "weights_bytes_per_token": footprint.token_bytes,
        "popularity_known": bool(described["popularity"]),
        "plan": plan_memory(asked, available).as_dict() if available >= asked.floor else None,
        "budgets": rows,
    }


def _verdict(outlook: dict[str, Any], available: int) -> str:
    floor, resident = outlook["floor_bytes"], outlook["resident_bytes"]
    if available < floor:
        return (
            f"This artifact does not run in {format_size(available)}: with a context of {outlook['context']} tokens it "
            f"needs at least {format_size(floor)}. A smaller --context needs less."
        )
    row = next(row for row in reversed(outlook["budgets"]) if row["budget_bytes"] <= available)
    speed = row["tokens_per_s_estimate"]
    about = "" if speed is None else f", at an estimated {format_speed(speed)} tokens/s"
    if row["resident"]:
        return f"Every expert stays in memory{about}: that takes {format_size(resident)} of {format_size(available)}."
    return (
        f"In {format_size(available)} it keeps {row['slots']} of {outlook['experts']} experts in memory, "
        f"{row['token_sets']:.1f} times what a token needs{about}; {format_size(resident)} would hold them all."
    )
