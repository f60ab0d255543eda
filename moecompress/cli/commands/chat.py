"""`moecompress chat ARTIFACT`: a conversation in the terminal, or line by line through a pipe, without torch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from moecompress.cli.flags import EngineFlags, SamplingFlags, with_flags


@with_flags
def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    sampling: SamplingFlags,
    engine: EngineFlags,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
) -> None:
    """Talk with ARTIFACT: one line a turn, answers stream to stdout. /help lists what can be typed; Ctrl-C stops."""
    # What answering needs is imported first, so that the memory ledger counts it.
    for module in ("moecompress.runtime.template", *(["readline"] if sys.stdin.isatty() else [])):
        importlib.import_module(module)
    from moecompress.cli.conversation import Conversation

    with engine.open(artifact) as opened:
        Conversation(opened, system, sampling.request()).run()
