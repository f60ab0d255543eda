"""`moecompress generate ARTIFACT --prompt P`: text from an artifact, without torch, inside a memory budget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moecompress.cli.console import note, print_json
from moecompress.cli.flags import EngineFlags, SamplingFlags, with_flags
from moecompress.cli.interrupt import on_interrupt
from moecompress.core.units import format_size

if TYPE_CHECKING:
    from moecompress.runtime.results import GenerationResult

INTERRUPTED = 130


@with_flags
def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; `-` reads it from stdin.")],
    sampling: SamplingFlags,
    engine: EngineFlags,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of streamed text.")] = False,
) -> None:
    """Continue a prompt with ARTIFACT; text streams to stdout, figures go to stderr. Ctrl-C ends the text."""
    text = sys.stdin.read() if prompt == "-" else prompt
    with engine.open(artifact) as opened:
        generation = opened.generate(text, **sampling.request())
        with on_interrupt(generation.cancel) as interrupted:
            for piece in generation:
                if not json:
                    print(piece, end="", flush=True)
        result = generation.result
    if json:
        print_json(result.as_dict())
    else:
        print()
        note(figures(result))
    if interrupted():
        raise typer.Exit(INTERRUPTED)


def figures(result: GenerationResult) -> str:
    """One line: how much was generated, how fast, in how much memory, and what changed the text."""
    return (
        f"{result.completion_tokens} tokens, {result.tokens_per_s:.1f} tokens/s, "
        f"peak memory {format_size(result.peak_rss_bytes)}, budget {format_size(result.budget_bytes)}"
        + "".join(f", {option}" for option in result.lossy)
    )
