"""Tables and progress bars: results on stdout, progress and logs on stderr. No bars outside a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


class TerminalProgress:
    """Draws a bar with count, elapsed and remaining time on a terminal; plain lines at start and end elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._begun = "", 0.0

    def start(self, task: str, total: int, unit: str = "") -> None:
        """Begin a task; an unfinished one is finished first."""
        self.finish()
        self._name, self._begun = task, time.monotonic()
        if not stderr.is_terminal:
            stderr.print(f"{task}: {total} {unit}".rstrip())
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=stderr, transient=True)
        self._task = self._bar.add_task(task, total=total)
        self._bar.start()

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, amount)

    def finish(self) -> None:
        """Remove the bar and say how long the task took."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._name:
            stderr.print(f"{self._name}: done in {time.monotonic() - self._begun:.1f} s")
            self._name = ""

    def log(self, line: str, details: Mapping[str, Any] | None = None) -> None:
        """One line on stderr, above the bar."""
        stderr.print(line, style="dim", markup=False, soft_wrap=True)


@contextmanager
def terminal_progress() -> Iterator[TerminalProgress]:
    """A progress that is taken off the screen whatever happens."""
    progress = TerminalProgress()
    try:
        yield progress
    finally:
        if progress._bar is not None:
            progress._bar.stop()
