"""A conversation in the terminal: lines in, answers out as they come, and a few commands that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from moecompress.cli.console import note
from moecompress.cli.interrupt import on_interrupt
from moecompress.core.errors import RequestError
from moecompress.runtime.engine import Engine
from moecompress.runtime.prompt import PromptTooLong
from moecompress.runtime.results import GenerationResult

HELP = """\
/reset   forget the conversation and begin a new one
/help    this list
/exit    leave; so do Ctrl-D, and Ctrl-C at the prompt
Ctrl-C   ends an answer"""


class Conversation:
    """What was said so far with one engine. The key-value cache keeps it, so a turn computes only what is new."""

    def __init__(self, engine: Engine, system: str | None, request: Mapping[str, Any]) -> None:
        self._engine = engine
        self._request = {"max_tokens": engine.context, **request}
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._system)

    def run(self) -> None:
        """Read and answer lines of stdin to its end or /exit. Raises RequestError when the model cannot chat."""
        if self._engine.tokenizer.template is None:
            raise RequestError("This model has no chat template, so it cannot chat; use generate with a plain prompt.")
        while (line := _read_line()) not in (None, "/exit"):
            if line:
                self._take(line)

    def _take(self, line: str) -> None:
        if line == "/reset":
            self._messages = list(self._system)
            note("The conversation begins anew.")
        elif line == "/help":
            note(HELP)
        elif line.startswith("/"):
            note(f"There is no command {line.split()[0]!r}; /help lists them.")
        else:
            self._ask(line)

    def _ask(self, question: str) -> None:
        self._messages.append({"role": "user", "content": question})
        try:
            generation = self._engine.chat(self._messages, **self._request)
        except PromptTooLong:
            self._messages.pop()
            self._say_full("leaves no room for this message")
            return
        with on_interrupt(generation.cancel):
            for piece in generation:
                print(piece, end="", flush=True)
        print(flush=True)
        self._messages.append({"role": "assistant", "content": generation.result.text})
        self._remark(generation.result)

    def _remark(self, result: GenerationResult) -> None:
        note(
            f"{result.completion_tokens} tokens, {result.tokens_per_s:.1f} tokens/s; "
            f"{result.prompt_tokens - result.reused_tokens} of {result.prompt_tokens} prompt tokens were new"
        )
        if result.finish_reason == "cancelled":
            note("stopped")
        if result.prompt_tokens + result.completion_tokens > self._engine.context:
            self._say_full("is full")

    def _say_full(self, what: str) -> None:
        note(f"The context of {self._engine.context} tokens {what}; /reset begins a new conversation.")


def _read_line() -> str | None:
    """The next line, without the spaces around it; None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
