"""One JSON object a line, both ways: the benchmark asks, a worker process answers. Standard library only.

A worker is a script that calls `serve` with an object; the command `{"do": name, …}` calls its method `name`. Every
answer carries what the process has used so far, read from /proc.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class WorkerError(Exception):
    """A worker failed or was killed; the message says how."""


@contextmanager
def started(python: str, script: Path, group: Path | None = None) -> Iterator[Worker]:
    """A worker script in a process of its own, in a control group if one is named; ended with the `with` block."""
    command = [python, str(script)]
    if group is not None:  # joined before anything is loaded
        command = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]
    with tempfile.TemporaryFile("w+") as errors:  # a file: a full pipe would block a talkative library
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, text=True, **pipes) as process:
            try:
                yield Worker(process, errors)
            finally:
                process.kill()


class Worker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process, self._errors = process, errors

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the worker. Raises WorkerError when it fails, with the last lines it wrote."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"The worker ended while it was asked to {do}: {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def pause(self) -> None:
        """Stop the process, so that its waiting threads take nothing from the other one."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def _end(self) -> str:
        code = self._process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        return f"{how}. {' '.join(self._errors.read().splitlines()[-5:])[-600:]}"


def serve(target: Any) -> None:
    """Answer commands from standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(target, command.pop("do"))(**command) or {}
        except Exception as error:  # the other process reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps({**answer, "used": used()}) + "\n")
        answers.flush()


def used() -> dict[str, float]:
    """Bytes read from the disk and resident memory in bytes, CPU in seconds, page faults that waited for the disk."""
    read = re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    status = Path("/proc/self/status").read_text()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "disk_bytes": int(read.group(1)) if read else 0,
        "rss_bytes": _kilobytes(status, "VmRSS") << 10,
        "peak_rss_bytes": _kilobytes(status, "VmHWM") << 10,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "major_faults": usage.ru_majflt,
    }


def _kilobytes(status: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) if found else 0
