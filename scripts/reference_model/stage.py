"""Resumable stages: a task's result is a folder named after everything its bytes depend on.

The folder is filled under a temporary name and renamed when complete, so it is either absent or right: killing the
build at any instant and starting it again does the unfinished tasks anew and ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from .arithmetic import compute_type
from .memory import peak_mib
from .settings import REVISION, BuildError

RECORD = "stage.json"


@dataclass(frozen=True)
class Result:
    """A finished task: its folder, the figures it reported, and what it cost.

    `peak_mib` is the greatest resident memory of the process that made it.
    """

    name: str
    fingerprint: str
    folder: Path
    figures: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_mib: int


@dataclass(frozen=True)
class Task:
    """`make(folder, *arguments)` writes the result into `folder` and returns JSON-able figures.

    The fingerprint covers the arguments (other tasks' results by their fingerprints), the library versions, the
    processor's instruction set and `REVISION`. Arguments must therefore hold all that `make` depends on.
    """

    name: str
    make: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal."""
        return digest({"task": self.name, "arguments": identity(self.arguments), "environment": environment()})


def environment() -> dict[str, str | int]:
    """What can change the bytes besides the task's own arguments."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "arithmetic": str(compute_type()),
        "revision": REVISION,
    }


def identity(value: Any) -> Any:
    """A JSON-able stand-in: an object's `fingerprint` where it has one, a dataclass's type and fields otherwise."""
    if hasattr(value, "fingerprint"):
        return value.fingerprint
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {f.name: identity(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise TypeError(f"a task's argument of type {type(value).__name__} has no fingerprint")


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Workspace:
    """The work folder."""

    folder: Path

    def result_folder(self, task: Task) -> Path:
        """Where the task's result is, or will be."""
        return self.folder / f"{task.name}-{task.fingerprint[:16]}"

    def find(self, task: Task) -> Result | None:
        """The task's result if it is there."""
        folder = self.result_folder(task)
        if not folder.exists():
            return None
        return self._result(task, read_json(folder / RECORD))

    def run(self, task: Task) -> Result:
        """The task's result, made now if it is not there."""
        if (found := self.find(task)) is not None:
            return found
        draft = self.folder / f".draft-{task.name}-{os.getpid()}"
        draft.mkdir()
        wall, cpu = time.monotonic(), time.process_time()
        figures = task.make(draft, *task.arguments)
        record = {
            "figures": figures,
            "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mib": peak_mib(),
        }
        write_json(draft / RECORD, record)
        publish(draft, self.result_folder(task))
        return self._result(task, record)

    def _result(self, task: Task, record: dict[str, Any]) -> Result:
        return Result(name=task.name, fingerprint=task.fingerprint, folder=self.result_folder(task), **record)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second build out of the work folder, and clear what a killed one left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BuildError(f"another build is using the work folder {self.folder}; wait or give --work") from None
            for draft in self.folder.glob(".draft-*"):
                shutil.rmtree(draft)
            yield


def publish(draft: Path, target: Path) -> None:
    """Make a finished folder appear under its name, with its bytes on the disk."""
    for path in [*sorted(draft.rglob("*")), draft]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    draft.rename(target)


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
