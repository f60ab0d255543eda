"""Ctrl-C as a request to stop what runs, instead of an exception at an arbitrary place."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C inside the block calls `stop`, a second one raises KeyboardInterrupt as usual.

    Yields a function that says whether there was one. Only the main thread may enter.
    """
    stopped = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: stopped
    finally:
        signal.signal(signal.SIGINT, before)
