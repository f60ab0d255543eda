"""`moecompress trace ARTIFACT --text FILE --out TRACE`: which experts each token of real text goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecompress.cli.console import note, print_json
from moecompress.core.units import parse_size


def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    text: Annotated[list[Path], typer.Option(help="UTF-8 text to run; may be repeated.")],
    out: Annotated[Path, typer.Option(help="The trace to write.")],
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens in all, shared by the texts.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens after which a text is begun anew.")] = None,
    memory: Annotated[str | None, typer.Option(help="Hard cap on resident memory, such as 600MiB.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default: all cores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Record the routing of text, for `moecompress replay`; the trace names no text and holds no token."""
    from moecompress.cli.screen import terminal_progress
    from moecompress.runtime.engine import Engine
    from moecompress.runtime.recording import aside_bytes, read_texts, record_trace

    budget = None if memory is None else parse_size(memory)
    aside = aside_bytes(text, tokens)
    with Engine.open(artifact, memory=budget, threads=threads, context=context, aside=aside) as engine:
        with terminal_progress() as progress:
            header = record_trace(engine, read_texts(engine, text, tokens), out, progress)
    if json:
        facts = {"trace": str(out), "bytes": out.stat().st_size, "artifact_hash": header.artifact_hash}
        print_json({**facts, "tokens": header.tokens, "layers": len(header.layers), "top_k": header.top_k})
    else:
        note(f"{out}: {header.tokens} tokens, {len(header.layers)} layers, {header.top_k} experts each")
