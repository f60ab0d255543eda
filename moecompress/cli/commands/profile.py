"""`moecompress profile MODEL`: usage, sensitivities and spectra of every expert, and what would compress well."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moecompress.cli.console import print_json
from moecompress.cli.screen import stdout, terminal_progress


def COMMAND(
    model: Annotated[str, typer.Argument(help="Folder of the checkpoint, `builtin`, or a hub id.")],
    recipe: Annotated[Path | None, typer.Option(help="Take the calibration text of this recipe.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Calibration tokens; default: the recipe's, or 32768.")
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Read no text: kurtosis and spectra.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the profile as one HTML page.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where statistics and answers are kept.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what each expert of MODEL is used for and how it would bear compression. Writes no model."""
    from moecompress.cli.workflow import default_cache
    from moecompress.models.discover import discover
    from moecompress.models.locate import locate_model
    from moecompress.models.source import TensorSource
    from moecompress.pipeline.profile import profile_model
    from moecompress.report.profile import findings, usage_table, write_profile

    source = TensorSource.open(locate_model(model))
    calibration = None if weights_only else _calibration(recipe, tokens, source.config)
    with terminal_progress() as progress:
        profile = profile_model(source, discover(source), calibration, cache or default_cache(), progress)
    if out is not None:
        write_profile(out, f"Profile of {Path(model).name}", profile)
    if json:
        print_json({**asdict(profile), "findings": findings(profile)})
        return
    stdout.print(usage_table(profile))
    for finding in findings(profile):
        stdout.print(f"• {finding}", markup=False)


def _calibration(recipe: Path | None, tokens: int | None, config: dict[str, Any]) -> Any:
    """The recipe's calibration, or the builtin text in sequences that fit the model."""
    from moecompress.calibration.options import CalibrationOptions
    from moecompress.recipe.load import load_recipe

    if recipe is not None:
        loaded = load_recipe(recipe).recipe.calibration
        return loaded.model_copy(update={"tokens": tokens}) if tokens else loaded
    context = (config.get("text_config") or config).get("max_position_embeddings") or 1024
    chosen = tokens or 32768
    return CalibrationOptions(tokens=chosen, sequence_length=min(1024, int(context), chosen))
