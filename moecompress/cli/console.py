"""Plain lines: results on stdout, remarks and errors on stderr, coloured on a terminal only.

Tables and progress bars are in `screen`, which takes more memory and time to import.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_DIM, _RED, _PLAIN = "\033[2m", "\033[31m", "\033[0m"


def note(text: str) -> None:
    """A remark on stderr."""
    _write(text, _DIM)


def fail(text: str) -> None:
    """An error on stderr."""
    _write(text, _RED)


def _write(text: str, style: str) -> None:
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"{style}{text}{_PLAIN}" if coloured else text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON value on stdout and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
