"""A piece of Python in a process of its own, for work whose memory must not count as this process's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from moecompress.core.errors import MoecompressError


def apart(code: str, *arguments: Any) -> Any:
    """The JSON value that `code` prints; it finds the arguments as a list `given`. Raises MoecompressError."""
    lines = ["import json, sys", "given = json.loads(sys.argv[1])", code]
    command = [sys.executable, "-c", "\n".join(lines), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise MoecompressError(f"A process of its own failed: {done.stderr.strip()[-300:]}.")
    return json.loads(done.stdout)
