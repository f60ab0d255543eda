"""A check in a child can crash, hang, raise or swallow memory: each is told as its outcome, and the rest goes on."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moecompress.testing.isolated import Limits, Outcome, carry_out

LIMITS = Limits(seconds=4.0, resident=64 << 20, address_space=512 << 20)


def check(number: int) -> str:
    match number:
        case 1:
            raise LookupError("one")
        case 2:
            ctypes.string_at(0)
        case 3:
            time.sleep(60)
        case 4:
            return f"{len(bytearray(os.urandom(1)) * (100 << 20))} bytes"
        case 5:
            return f"{len(bytearray(1 << 30))} bytes"
        case 6:
            os._exit(3)
    return f"fine {number}"


def outcomes_of(numbers: range) -> list[Outcome]:
    return list(carry_out(check, numbers, LIMITS))


@pytest.fixture(scope="module")
def outcomes():
    code = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_isolated import outcomes_of\n"
        "print(json.dumps([[o.number, o.word, o.failure] for o in outcomes_of(range(9))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {number: (word, failure) for number, word, failure in json.loads(done.stdout)}


def test_checks_that_end_well_are_told(outcomes):
    assert list(outcomes) == list(range(9))
    for number in (0, 7, 8):
        assert outcomes[number] == (f"fine {number}", None)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "LookupError: one"),
        (2, "ended the process with signal 11"),
        (3, "took more than 4 seconds"),
        (4, "104857600 bytes, with "),
        (5, "MemoryError"),
        (6, "ended the process with status 3"),
    ],
)
def test_every_way_to_fail_is_told_with_its_number(outcomes, number, words):
    assert words in outcomes[number][1]
