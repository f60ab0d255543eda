"""Calls into the C++ core with arguments it cannot use: tables, flags, options, tokens, and those of the kernels.

One or two places of a call that works are replaced. The core must answer with a Python error, or with a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from moecompress.artifact.reader import read_manifest
from moecompress.runtime import _native
from moecompress.runtime.tables import read_tables
from moecompress.testing.damage import NUMBERS, hostile, some_place

_ERRORS = (ValueError, TypeError, OverflowError, MemoryError, _native.ReadError)
_ARRAYS: tuple[Any, ...] = (
    np.zeros(0, np.float32), np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32), np.zeros((1, 1), np.float32),
    np.full((2, 64), np.nan, np.float32), np.full((2, 64), np.inf, np.float32), np.full((3, 7), 1e38, np.float32),
    np.zeros((2, 64), np.float64), np.zeros((64, 2), np.float32).T, np.zeros(1, np.uint8), np.zeros(4096, np.uint8),
    np.full((2, 2), -1, np.int64), np.full((2, 2), 2**62, np.int64), np.zeros((2, 9), np.int64), np.zeros(3, np.int32),
    np.array([2**31 - 1, -1], np.int32), np.zeros(70, np.int32), np.zeros(2, object), None, "x",
)  # fmt: skip


class CoreCalls:
    """`check(number)` for `carry_out`: one hostile call into the core."""

    def __init__(self, folder: Path, seed: int, work: Path) -> None:
        self._folder, self._seed = str(folder), seed
        self._tables = read_tables(read_manifest(folder))
        self._calls: dict[str, Callable[[Random], Any]] = {
            "model": self._model, "needs": self._needs, "forward": self._forward, "routed": self._routed,
            "run": self._run, "matmul": self._matmul, "row": self._row, "elementwise": self._elementwise,
            "pool": self._pool,
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
            "options": {
                "threads": 1, "context": 64, "chunk": 16, "isa": "", "slots": 4, "lanes": 1, "policy": "lru",
                "io": "automatic", "kv": "int16",
            },
        }  # fmt: skip

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
    if isinstance(old, np.ndarray):
        return generator.choice(_ARRAYS)
    if isinstance(old, float) and generator.random() < 0.5:
        return generator.choice([float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-300, 1e300])
    return generator.choice(NUMBERS) if generator.random() < 0.3 else hostile(old, generator)
