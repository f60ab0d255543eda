"""How long work reports itself: whoever runs a task passes one of these down; the command line draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Receives progress. One task at a time; `advance` counts in the task's unit."""

    def start(self, task: str, total: int, unit: str = "") -> None:
        """A task begins: what it is, how many units it has."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def finish(self) -> None:
        """The task is over."""

    def log(self, line: str, details: Mapping[str, Any] | None = None) -> None:
        """One line for the reader, with the figures behind it."""


class Silent:
    """Reports nothing."""

    def start(self, task: str, total: int, unit: str = "") -> None:
        """Ignored."""

    def advance(self, amount: int = 1) -> None:
        """Ignored."""

    def finish(self) -> None:
        """Ignored."""

    def log(self, line: str, details: Mapping[str, Any] | None = None) -> None:
        """Ignored."""
