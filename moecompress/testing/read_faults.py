"""Requests whose reads fail: scenarios run in a process of their own, before whose reads `read_faults.c` stands.

`run_scenarios(artifact, scenarios, folder)` compiles the library, starts the process and returns a report for each.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from moecompress.core.errors import MoecompressError
from moecompress.runtime.engine import Engine

PROMPT = tuple(range(3, 27))
TOKENS = 6
_NUMBERS = {"count": 0, "fail": 1, "shorten": 2, "hold": 3}
_EVERY = 1 << 40


@dataclass(frozen=True)
class Fault:
    """Reads number `first` to `last` of files whose path holds `file` fail with errno `value`, are shortened to
    `value` bytes, or are held until the next fault is set."""

    kind: Literal["count", "fail", "shorten", "hold"]
    value: int = errno.EIO
    file: str = "experts-"
    first: int = 1
    last: int = _EVERY


@dataclass(frozen=True)
class Scenario:
    """A fault that `repeats` requests meet while the artifact is opened, in the prompt, or after some tokens.

    `cancel`: the request is cancelled while its read is held, and goes on then.
    """

    phase: Literal["open", "prefill", "decode"]
    fault: Fault
    options: dict[str, Any] = field(default_factory=dict)
    repeats: int = 1
    cancel: bool = False


@dataclass(frozen=True)
class Report:
    """How the requests with faults ended (a class of error or `fine`), with the tokens of the last if it had any.

    `after` and `misses` are those of requests that followed, `expected` those of an engine that met no fault. `faults`
    counts the reads of the fault's files since it was set, `lookups` the experts that were asked for since then.
    """

    endings: list[str]
    messages: list[str]
    expected: list[int]
    damaged: list[int]
    after: list[int]
    misses: list[int]
    expected_misses: list[int]
    faults: int
    lookups: int


class _Library:
    """The functions of the preloaded library."""

    def __init__(self) -> None:
        self._functions = ctypes.CDLL(None)
        for name in ("faults_seen", "faults_await_held"):
            getattr(self._functions, name).restype = ctypes.c_long

    def set(self, fault: Fault) -> None:
        numbers = [ctypes.c_long(number) for number in (fault.value, fault.first, fault.last)]
        self._functions.faults_set(fault.file.encode(), _NUMBERS[fault.kind], *numbers)

    def clear(self) -> None:
        self.set(Fault("count", file=""))

    def seen(self) -> int:
        return int(self._functions.faults_seen())

    def await_held(self) -> None:
        self._functions.faults_await_held()


def run_scenarios(artifact: Path, scenarios: Sequence[Scenario], folder: Path) -> list[Report]:
    """A report for each scenario; `folder` receives the compiled library."""
    library = folder / "read_faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    before = os.environ.get("LD_PRELOAD", "")
    done = subprocess.run(
        [sys.executable, "-m", "moecompress.testing.read_faults", str(artifact)],
        input=json.dumps([asdict(scenario) for scenario in scenarios]),
        env={**os.environ, "LD_PRELOAD": f"{before}:{library}".lstrip(":")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        raise AssertionError(f"The process with read faults ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return [Report(**values) for values in json.loads(done.stdout)]


class _Trial:
    """One scenario being carried out."""

    def __init__(self, library: _Library, artifact: Path, scenario: Scenario) -> None:
        self._library, self._artifact, self._scenario = library, artifact, scenario
        self._options = {"threads": 1, "slots": 3, "context": 128, "chunk": 8, **scenario.options}
        self._endings: list[str] = []
        self._messages: list[str] = []
        self._tokens: list[int] = []
        self._faults = self._lookups = self._lookups_before = 0

    def report(self) -> Report:
        expected, expected_misses = _without_faults(self._artifact, json.dumps(self._options))
        if self._scenario.phase == "open":
            self._library.set(self._scenario.fault)
            self._repeat(self._open_and_ask)
        with self._open() as engine:
            if self._scenario.phase != "open":
                self._repeat(lambda: self._ask(engine))
                self._lookups = _lookups(engine) - self._lookups_before
            after, misses = _warm(engine)
        facts = (self._endings, self._messages, expected, self._tokens, after, misses, expected_misses)
        return Report(*facts, self._faults, self._lookups)

    def _open(self) -> Engine:
        return Engine.open(self._artifact, **self._options)

    def _open_and_ask(self) -> list[int]:
        with self._open() as engine:
            return _greedy(engine)

    def _repeat(self, request: Callable[[], list[int]]) -> None:
        for _ in range(self._scenario.repeats):
            try:
                self._tokens = request()
                self._endings.append("fine")
            except MoecompressError as error:
                self._endings.append(type(error).__name__)
                self._messages.append(str(error))
        self._faults = self._library.seen()
        self._library.clear()

    def _ask(self, engine: Engine) -> list[int]:
        helper = threading.Thread(target=self._cancel_held, args=(engine,))

        def meet() -> None:
            self._lookups_before = 0 if self._scenario.phase == "prefill" else _lookups(engine)
            self._library.set(self._scenario.fault)
            if self._scenario.cancel:
                helper.start()

        try:
            return _greedy(engine, **{self._scenario.phase: meet})
        finally:
            if self._scenario.cancel:
                helper.join()

    def _cancel_held(self, engine: Engine) -> None:
        self._library.await_held()
        engine.cancel()
        self._library.set(Fault("count"))


@cache
def _without_faults(artifact: Path, options: str) -> tuple[list[int], list[int]]:
    with Engine.open(artifact, **json.loads(options)) as engine:
        return _warm(engine)


def _nothing() -> None:
    pass


def _greedy(engine: Engine, prefill: Callable[[], None] = _nothing, decode: Callable[[], None] = _nothing) -> list[int]:
    """Tokens after the prompt; `prefill` is called before the prompt, `decode` behind the third token."""
    engine.logits([0])  # so that nothing of the prompt is in the key-value cache
    prefill()
    tokens = [engine.start(list(PROMPT))[0]]
    while len(tokens) < TOKENS:
        if len(tokens) == 3:
            decode()
        tokens.append(engine.step([*PROMPT, *tokens]))
    return tokens


def _warm(engine: Engine) -> tuple[list[int], list[int]]:
    """The tokens of a text, and how many experts it missed the second and the third time, when the cache is warm."""
    misses = []
    for _ in range(3):
        tokens = _greedy(engine)
        stats = engine.store_stats()
        misses.append(stats.prefill_misses + stats.decode_misses)
    return tokens, misses[1:]


def _lookups(engine: Engine) -> int:
    stats = engine.store_stats()
    return stats.prefill_hits + stats.prefill_misses + stats.decode_hits + stats.decode_misses


def main() -> None:
    """Runs the scenarios on standard input, for the artifact that is named, and prints their reports."""
    artifact = Path(sys.argv[1])
    library = _Library()
    scenarios = []
    for values in json.load(sys.stdin):
        scenarios.append(Scenario(**{**values, "fault": Fault(**values["fault"])}))
    print(json.dumps([asdict(_Trial(library, artifact, scenario).report()) for scenario in scenarios]))


if __name__ == "__main__":
    main()
