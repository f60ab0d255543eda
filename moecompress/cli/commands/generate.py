"""`moecompress generate ARTIFACT --prompt P`: text from an artifact, without torch, inside a memory budget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moecompress.cli.console import note, print_json
from moecompress.core.units import format_size, parse_size


def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; `-` reads it from stdin.")],
    memory: Annotated[str | None, typer.Option(help="Hard cap on resident memory, such as 600MiB.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus: smallest set with this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k most likely tokens; 0 is all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the generation; may be repeated.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of context to reserve memory for.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default: all cores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of streamed text.")] = False,
) -> None:
    """Continue a prompt with ARTIFACT; text streams to stdout, figures go to stderr."""
    from moecompress.runtime.engine import Engine

    text = sys.stdin.read() if prompt == "-" else prompt
    budget = None if memory is None else parse_size(memory)
    with Engine.open(artifact, memory=budget, threads=threads, context=context) as engine:
        generation = engine.generate(
            text, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop or []
        )
        for piece in generation:
            if not json:
                print(piece, end="", flush=True)
        result = generation.result
    if json:
        print_json(result.as_dict())
        return
    print()
    note(
        f"{result.completion_tokens} tokens, {result.tokens_per_s:.1f} tokens/s, "
        f"peak memory {format_size(result.peak_rss_bytes)}, budget {format_size(result.budget_bytes)}"
    )
