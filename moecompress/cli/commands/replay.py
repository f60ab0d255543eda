"""`moecompress replay TRACE`: hit rates of cache policies, beside the optimum, and recall of predictors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecompress.cli.console import print_json
from moecompress.core.errors import UsageError
from moecompress.core.units import format_size

if TYPE_CHECKING:
    from moecompress.artifact.priors import Priors
    from moecompress.runtime.trace import Trace


def COMMAND(
    trace: Annotated[Path, typer.Argument(help="A trace that `moecompress trace` wrote.")],
    policy: Annotated[list[str] | None, typer.Option(help="Cache policy; may be repeated. Default: all.")] = None,
    capacities: Annotated[
        str | None, typer.Option(help="Cache sizes: 96 (experts), 1.5T (token sets) or 600MiB, separated by commas.")
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="Tokens at the start that fill the cache and do not count.")] = 0,
    artifact: Annotated[Path | None, typer.Option(help="The artifact: its priors are for predictors.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Run TRACE through the engine's cache policies and predictors, without the model."""
    from moecompress.runtime import replay
    from moecompress.runtime.trace import read_trace

    recorded = read_trace(trace)
    slots = replay.default_slots(recorded)
    if capacities is not None:
        slots = [replay.capacity_slots(text.strip(), recorded) for text in capacities.split(",")]
    rates = replay.hit_rates(recorded, policy or replay.policies(), slots, skip)
    recalled = replay.recalls(recorded, _priors(artifact, recorded))
    report = replay.report(recorded, rates, recalled, skip)
    if json:
        print_json(report)
    else:
        _print(report)


def _priors(artifact: Path | None, trace: Trace) -> Priors | None:
    from moecompress.artifact.reader import ArtifactReader

    if artifact is None:
        return None
    with ArtifactReader(artifact) as reader:
        found = reader.manifest.artifact_hash
        if found != trace.header.artifact_hash:
            raise UsageError(
                f"The trace was recorded with the artifact {trace.header.artifact_hash[:16]}, but {artifact} is "
                f"{found[:16]}. Give the artifact of the trace."
            )
        return reader.priors()


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    from moecompress.cli.screen import stdout

    layers, top_k, tokens = report["layers"], report["top_k"], report["tokens"] - report["skipped_tokens"]
    stdout.print(f"{tokens} tokens, {layers} layers of {top_k} experts a token, {report['experts']} experts in all")
    names = list(report["capacities"][0]["hit_rate"]) if report["capacities"] else []
    table = Table("cache", "experts", "token sets", *names, box=None)
    for column in table.columns:
        column.justify = "right"
    for row in report["capacities"]:
        rates = [f"{row['hit_rate'][name]:.1%}" for name in names]
        table.add_row(format_size(row["bytes"]), str(row["slots"]), f"{row['token_sets']:.2f}", *rates)
    stdout.print(table)
    for name, found in report["predictors"].items():
        stdout.print(
            f"predictor {name}: names {found['recall']:.1%} of a layer's experts with {top_k} guesses, "
            f"{found['recall_twice']:.1%} with {2 * top_k}"
        )
