"""`moecompress plan RECIPE`: what a run would do, from headers alone. Nothing is written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from moecompress.cli.console import print_json
from moecompress.cli.screen import stdout
from moecompress.core.apart import apart
from moecompress.core.units import format_size

if TYPE_CHECKING:
    from moecompress.pipeline.device import DeviceNeeds
    from moecompress.pipeline.plan import Plan

# What `generate` holds before the first weight: the command, the engine's libraries and the tokenizer.
_INTERPRETER = """
from pathlib import Path
import typer
from moecompress.cli.main import build_app
from moecompress.core.memory import rss_bytes
from moecompress.runtime import _native, engine
from moecompress.runtime.tokenizer import Tokenizer, TokenizerFiles
typer.main.get_command(build_app("generate")).commands["generate"].make_context("generate", ["x", "--prompt", "x"])
tokenizer = Tokenizer(TokenizerFiles(Path(given[0]).read_bytes()))
_native.tidy_heap()
print(rss_bytes())
"""


def COMMAND(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    model: Annotated[str | None, typer.Option(help="Folder of the checkpoint, `builtin`, or a hub id.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one value: a.b=c; may be repeated.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where earlier runs kept what they measured.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show exact bytes, statistics, memory, disk and time of RECIPE before anything runs."""
    from moecompress.cli.workflow import default_cache
    from moecompress.models.discover import discover
    from moecompress.models.locate import locate_model
    from moecompress.models.source import TensorSource
    from moecompress.pipeline.assets import REQUIRED, source_assets
    from moecompress.pipeline.plan import check_budget, make_plan
    from moecompress.recipe.load import load_recipe

    loaded = load_recipe(recipe, set_ or [], model)
    source = TensorSource.open(locate_model(loaded.recipe.model))
    layout = discover(source)
    plan = make_plan(loaded, source, layout, cache or default_cache())
    check_budget(loaded, source, layout, cache or default_cache())
    interpreter = apart(_INTERPRETER, str(source_assets(source)[REQUIRED]))
    if json:
        print_json({**asdict(plan), "artifact_bytes": plan.artifact_bytes, "device_interpreter_bytes": interpreter})
    else:
        _show(plan, interpreter)


def _show(plan: Plan, interpreter: int) -> None:
    bound, size = "" if plan.exact else "at most ", plan.artifact_bytes
    summary = Table(show_header=False, box=None)
    for key, value in (
        ("model", f"{plan.model_type}, {plan.parameters:,} parameters, {format_size(plan.source_bytes)} on disk"),
        ("artifact", f"{bound}{size:,} bytes ({format_size(size)}), manifest and card on top"),
        ("effective bits", f"{plan.bits_per_weight:.3f} per weight"),
        ("statistics", f"{', '.join(plan.statistics) or 'none'} on {plan.calibration_tokens:,} tokens"),
        ("disk for statistics", f"up to {format_size(plan.statistics_disk_bytes)}, shared between recipes"),
        ("peak memory", f"about {format_size(plan.peak_memory_bytes)}"),
        ("time", f"about {plan.seconds:.0f} s on this machine"),
        ("running it", _device(plan.device, interpreter)),
    ):
        summary.add_row(key, value)
    stdout.print(summary)
    table = Table("pass", "weights", "effective bits", box=None)
    for effect in plan.effects:
        table.add_row(effect.name, f"{effect.weights:,}", f"{effect.bits_per_weight:.3f}")
    for role, weights in plan.kept.items():
        table.add_row(f"kept: {role}", f"{weights:,}", "as in the source")
    stdout.print(table)


def _device(needs: DeviceNeeds | None, interpreter: int) -> str:
    if needs is None:
        return "in transformers only; the native engine has no such family"
    floor, resident = format_size(interpreter + needs.floor_bytes), format_size(interpreter + needs.resident_bytes)
    return f"from about {floor} of memory on; about {resident} keeps every expert (context {needs.context})"
