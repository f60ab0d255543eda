"""Numbered checks in forked children: a crash, a hang or too much memory is one check's outcome, not the end of all.

A child carries out one check after another and tells how each ended. When one kills it, the next child goes on behind
that check. The caller must not have threads of its own running.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from moecompress.core import memory

_KILLED_BY_WATCHDOG = 1


@dataclass(frozen=True)
class Limits:
    """`seconds` a check may take; bytes that resident memory and the address space may grow beyond the parent's."""

    seconds: float
    resident: int
    address_space: int | None


@dataclass(frozen=True)
class Outcome:
    """What a check returned, or why it failed."""

    number: int
    word: str | None
    failure: str | None


def carry_out(check: Callable[[int], str], numbers: Sequence[int], limits: Limits) -> Iterator[Outcome]:
    """The outcome of `check(number)` for each number, in order. An exception that leaves a check is a failure."""
    left, before = list(numbers), memory.rss_bytes()
    while left:
        for outcome in _child(check, left, limits, before):
            yield outcome
            left = left[left.index(outcome.number) + 1 :]


def _child(check: Callable[[int], str], numbers: Sequence[int], limits: Limits, before: int) -> Iterator[Outcome]:
    """The outcomes that one child tells, and last the one of the check that ended it, if any."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _tell_all(check, numbers, limits, before, writing)
    os.close(writing)
    begun = None
    with os.fdopen(reading) as lines:
        for line in lines:
            kind, number, word, failure = json.loads(line)
            begun = number if kind == "begin" else None
            if kind == "end":
                yield Outcome(number, word, failure)
    _, status = os.waitpid(child, 0)
    if begun is not None:
        yield Outcome(begun, None, _death(os.waitstatus_to_exitcode(status), limits))


def _death(code: int, limits: Limits) -> str:
    if code == _KILLED_BY_WATCHDOG:
        return f"took more than {limits.seconds:g} seconds, or ended the process"
    return f"ended the process with {'signal' if code < 0 else 'status'} {abs(code)}"


def _tell_all(
    check: Callable[[int], str], numbers: Sequence[int], limits: Limits, before: int, descriptor: int
) -> NoReturn:
    """The child: all checks, then an end that runs nothing of the parent's."""
    if limits.address_space is not None:
        most = _address_space() + limits.address_space
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with os.fdopen(descriptor, "w") as lines:
        for number in numbers:
            _tell(lines, "begin", number)
            faulthandler.dump_traceback_later(limits.seconds, exit=True)
            word, failure = _outcome(check, number)
            faulthandler.cancel_dump_traceback_later()
            grown = memory.peak_rss_bytes() - before
            if failure is None and grown > limits.resident:
                failure = f"{word}, with {grown} bytes of memory where {limits.resident} are allowed"
            _tell(lines, "end", number, word, failure)
            if failure is not None:
                break
    os._exit(0)


def _outcome(check: Callable[[int], str], number: int) -> tuple[str | None, str | None]:
    try:
        return check(number), None
    except BaseException:  # whatever it is, it is the check's outcome
        return None, traceback.format_exc(limit=-6)


def _tell(lines: IO[str], *values: Any) -> None:
    json.dump([*values, None, None][:4], lines)
    lines.write("\n")
    lines.flush()


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - one line of a kernel file
        return int(file.read().split()[0]) * resource.getpagesize()
