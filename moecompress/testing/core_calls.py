"""Calls into the C++ core with arguments it cannot use: tables, flags, options, tokens, and those of the kernels.

One or two places of a call that works are replaced. The core must answer with a Python error, or with a result.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.artifact.reader import read_manifest
from moecompress.runtime import _native
from moecompress.runtime.ledger import MemoryPlan
from moecompress.runtime.loading import LoadOptions, core_options
from moecompress.runtime.tables import read_tables
from moecompress.testing.damage import NUMBERS, hostile, some_place

_ERRORS = (ValueError, TypeError, OverflowError, MemoryError, _native.ReadError)
_ARRAYS: tuple[Any, ...] = (
    np.zeros(0, np.float32), np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32), np.zeros((1, 1), np.float32),
    np.full((2, 64), np.nan, np.float32), np.full((2, 64), np.inf, np.float32), np.full((3, 7), 1e38, np.float32),
    np.zeros((2, 64), np.float64), np.zeros((64, 2), np.float32).T, np.zeros(1, np.uint8), np.zeros(4096, np.uint8),
    np.full((2, 2), -1, np.int64), np.full((2, 2), 2**62, np.int64), np.zeros((2, 9), np.int64), np.zeros(3, np.int32),
    np.array([2**31 - 1, -1], np.int32), np.full((9, 2, 2), 65535, np.uint16), np.zeros((0, 2, 2), np.uint16),
    np.zeros((9, 2, 0), np.uint16), np.zeros((9, 2, 2), np.uint16), b"", b"x", bytearray(64), array("i", []),
    array("i", [-1]), array("d", [1.0]), array("i", range(70)),
    np.zeros(70, np.int32), np.zeros(2, object), None, "x",
)  # fmt: skip


def small_options() -> dict[str, Any]:
    """Options of the core for a tiny model: 4 slots, a context of 64, chunks of 16."""
    parts = {field.name: 0 for field in fields(MemoryPlan)}
    return core_options(MemoryPlan(**{**parts, "slots": 4, "context": 64, "chunk": 16}), LoadOptions(lanes=1), None)


class CoreCalls:
    """`check(number)` for `carry_out`: one hostile call into the core."""

    def __init__(self, folder: Path, seed: int, work: Path) -> None:
        self._folder, self._seed = str(folder), seed
        self._tables = read_tables(read_manifest(folder))
        self._calls: dict[str, Callable[[Random], Any]] = {
            "model": self._model, "needs": self._needs, "forward": self._forward, "routed": self._routed,
            "run": self._run, "matmul": self._matmul, "row": self._row, "elementwise": self._elementwise,
            "pool": self._pool, "next": self._next, "sample": self._sample, "replay": self._replay,
            "recall": self._recall,
        }  # fmt: skip
        for call in self._calls.values():
            call(_Sparing(0))  # what is damaged later works now

    def check(self, number: int) -> str:
        """What became of call `number`: its kind, and `result` or the class of the error."""
        generator = Random(f"{self._seed}:{number}")
        name = generator.choice(list(self._calls))
        try:
            self._calls[name](generator)
        except _ERRORS as error:
            return f"{name}: {type(error).__name__}"
        return f"{name}: result"

    def _arguments(self) -> dict[str, Any]:
        tables = self._tables
        return {
            "folder": self._folder,
            "config": tables.architecture.flags(),
            "trunk": _lists(tables.trunk),
            "experts": _lists(tables.experts),
            "options": small_options(),
        }

    def _model(self, generator: Random) -> None:
        arguments = self._arguments()
        part = generator.choice(["config", "trunk", "experts", "options"])
        _damage(arguments[part], generator)
        _native.Model(**arguments).forward(np.arange(20, dtype=np.int32), True)

    def _needs(self, generator: Random) -> None:
        arguments = self._arguments()
        del arguments["folder"], arguments["options"]
        _native.memory_needs(**_damaged({**arguments, "context": 64, "chunk": 16}, generator))

    def _forward(self, generator: Random) -> None:
        model = _native.Model(**self._arguments())
        tokens = [generator.randrange(8) for _ in range(generator.choice([1, 2, 17, 64, 65]))]
        kept = {"length": generator.randrange(len(tokens))}
        calls: list[dict[str, Any]] = [{"tokens": np.array(tokens, np.int32), "all_logits": True}, kept]
        _damage(calls, generator)
        for call in (*calls, {"tokens": np.arange(4, dtype=np.int32)}):
            (model.reset if "length" in call else model.forward)(**call)

    def _experts(self, arguments: Mapping[str, Any]) -> Any:
        return _native.RoutedExperts(self._folder, **arguments)

    def _routed(self, generator: Random) -> None:
        layers = {"layers": _lists(self._tables.experts), "top_k": 2, "slots": 4, "threads": 1, "lanes": 1, "chunk": 8}
        self._experts(_damaged(layers, generator))

    def _run(self, generator: Random) -> None:
        experts = self._experts({"layers": self._tables.experts, "top_k": 2, "slots": 4})
        hidden = self._tables.architecture.sizes.hidden
        values = np.random.default_rng(1).normal(size=(2, hidden)).astype(np.float32)
        call = {
            "table": 0,
            "hidden": values,
            "index": np.array([[0, 7], [8, 2]]),
            "weights": np.ones((2, 2), np.float32),
        }
        experts.run(**_damaged(call, generator))

    def _packed(self, generator: Random) -> dict[str, Any]:
        bits = generator.choice([1, 2, 3, 4, 8])
        packed = np.frombuffer(generator.randbytes(2 * (2 * 64 + 64 * bits * 3)), np.uint8)
        return {"codec": "affine", "bits": bits, "group_size": 64, "rows": 20, "columns": 90, "packed": packed}

    def _matmul(self, generator: Random) -> None:
        x = np.ones((3, 90), np.float32)
        call = {**self._packed(generator), "x": x, "isa": generator.choice(_native.isa_names()), "threads": 2}
        _native.matmul(**_damaged(call, generator))

    def _row(self, generator: Random) -> None:
        _native.dequantize_row(**_damaged({**self._packed(generator), "row": 19}, generator))

    def _elementwise(self, generator: Random) -> None:
        names = ("quantize_activations", "silu_multiply", "exp_shifted", "dot", "add_scaled")
        name = generator.choice(names)
        vector = np.linspace(-9, 9, 37, dtype=np.float32)
        call = {
            "quantize_activations": [vector.reshape(1, -1)],
            "exp_shifted": [vector, 1.0],
            "add_scaled": [vector, vector, 0.5],
        }.get(name, [vector, vector])
        getattr(_native, name)(*_damaged(call, generator))

    def _pool(self, generator: Random) -> None:
        call = _damaged({"threads": 2, "items": 9, "fail_at": -1}, generator)
        _native.thread_pool_visits(**call, rounds=1)

    def _next(self, generator: Random) -> None:
        model = _native.Model(**self._arguments())
        call = {"tokens": array("i", [3, 1, 2]), "temperature": 0.9, "top_p": 0.9, "top_k": 5, "uniform": 0.5}
        model.next(**_damaged(call, generator))

    def _sample(self, generator: Random) -> None:
        logits = np.linspace(-5, 5, 64, dtype=np.float32)
        call = {"logits": logits, "temperature": 0.9, "top_p": 0.9, "top_k": 5, "uniform": 0.99}
        _native.sample(**_damaged(call, generator))

    def _replay(self, generator: Random) -> None:
        policies = [*_native.policy_names(), "belady"]
        call = {"chosen": _routing(9), "experts": [8, 8], "policy": generator.choice(policies), "slots": 4}
        _native.replay(**_damaged(call, generator))

    def _recall(self, generator: Random) -> None:
        call = {
            "chosen": _routing(9), "weights": np.full((9, 2, 2), 0.5, np.float32), "guesses": _routing(9),
            "experts": [8, 8], "predictor": generator.choice(_native.predictor_names()), "named": 2,
            "priors": [2, 8, bytes(2 * 8 * 4), bytes(2 * 8 * 8 * 2), bytes(2 * 8 * 8 * 2)],
        }  # fmt: skip
        call = _damaged(call, generator)
        parts = call["priors"]
        if isinstance(parts, list):
            call["priors"] = tuple(bytearray(part) if isinstance(part, bytes) else part for part in parts)
        _native.recall(**call)


def _routing(tokens: int) -> npt.NDArray[np.uint16]:
    """Choices [tokens, 2 layers, top-2] of 8 experts."""
    first = np.arange(tokens * 2, dtype=np.uint16).reshape(tokens, 2) % 8
    return np.stack([first, (first + 3) % 8], axis=2).astype(np.uint16)


class _Sparing(Random):
    """Makes choices, but damages nothing."""


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _damaged(value: Any, generator: Random) -> Any:
    _damage(value, generator)
    return value


def _damage(value: Any, generator: Random) -> None:
    """Replace one place inside, sometimes two."""
    if isinstance(generator, _Sparing):
        return
    for _ in range(2 if generator.random() < 0.2 else 1):
        place = some_place(value, generator, leaf=generator.random() < 0.8)
        if place is not None:
            container, key = place
            container[key] = _replacement(container[key], generator)


def _replacement(old: Any, generator: Random) -> Any:
    if isinstance(old, np.ndarray | array | bytes):
        return generator.choice(_ARRAYS)
    if isinstance(old, float) and generator.random() < 0.5:
        return generator.choice([float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-300, 1e300])
    return generator.choice(NUMBERS) if generator.random() < 0.3 else hostile(old, generator)
