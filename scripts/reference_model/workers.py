"""Runs tasks in worker processes that stay for the whole build, one torch thread each.

Results come back through the work folder. A worker dies when its parent does, and a failure stops all.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

import torch

from .memory import release
from .progress import report
from .settings import BuildError
from .stage import Result, Task, Workspace

Runner = Callable[[Workspace, Sequence[Task]], list[Result]]


def run_here(work: Workspace, tasks: Sequence[Task]) -> list[Result]:
    """Run the tasks one after the other in this process."""
    return [work.run(task) for task in tasks]


class Workers:
    """A runner with up to `count` processes, for use in a `with` statement."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.processes: list[SpawnProcess] = []
        self.connections: list[Connection] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            if error is not None:
                process.kill()
            process.join()

    def __call__(self, work: Workspace, tasks: Sequence[Task]) -> list[Result]:
        """Run the tasks that the work folder does not hold, and return the results of all."""
        queue = []
        for task in tasks:
            if work.find(task) is None:
                queue.append(task)
            else:
                report(task.name, "already done")
        self._start(min(self.count, len(queue)))
        idle = list(self.connections)
        busy: dict[Connection, Task] = {}
        while queue or busy:
            while queue and idle:
                worker, task = idle.pop(), queue.pop(0)
                worker.send((work, task))
                busy[worker] = task
            ready = wait(list(busy))
            for worker in [worker for worker in busy if worker in ready]:
                _receive(worker, busy.pop(worker))
                idle.append(worker)
        return [work.run(task) for task in tasks]

    def _start(self, count: int) -> None:
        """Have at least `count` processes."""
        context = multiprocessing.get_context("spawn")
        while len(self.processes) < count:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)


def _receive(worker: Connection, task: Task) -> None:
    """Wait for a task's end and raise what went wrong."""
    try:
        error = worker.recv()
    except (EOFError, ConnectionResetError):
        error = RuntimeError(f"the worker making {task.name} was killed; finished stages are kept, start again")
    if error is not None:
        raise error


def _serve(connection: Connection) -> None:
    """A worker's life: make tasks until the parent closes the connection; answer each with None or what went wrong."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            work, task = connection.recv()
        except EOFError:
            return
        try:
            done = work.run(task)
        except BuildError as error:
            connection.send(error)
        except Exception:
            connection.send(RuntimeError(f"{task.name} failed:\n{traceback.format_exc()}"))
        else:
            report(task.name, f"done in {done.seconds:.0f} s ({done.cpu_seconds:.0f} s CPU, peak {done.peak_mib} MiB)")
            release()
            connection.send(None)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
