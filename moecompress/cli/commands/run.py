"""`moecompress run RECIPE`: compress, then measure and check the gates when the recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecompress.cli.console import note, print_json
from moecompress.cli.screen import stdout, terminal_progress
from moecompress.core.units import format_size


def COMMAND(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    model: Annotated[str | None, typer.Option(help="Folder of the checkpoint, `builtin`, or a hub id.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the artifact; default runs/<recipe>/artifact.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one value: a.b=c; may be repeated.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where statistics and reference logits are kept.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compress a model by RECIPE. The same command goes on after an interruption."""
    from moecompress.cli.workflow import compress_and_measure

    with terminal_progress() as progress:
        outcome = compress_and_measure(recipe, set_ or [], model, out, cache, progress)
    if json:
        print_json(outcome.as_dict())
        return
    stdout.print(f"{outcome.artifact}  {format_size(outcome.bytes)}  {outcome.bits_per_weight:.2f} bits per weight")
    if outcome.table:
        stdout.print(outcome.table)
    if outcome.resumed_units:
        note(f"resumed: {outcome.resumed_units} units were already done")
