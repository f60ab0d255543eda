#!/usr/bin/env python3
"""Our engine as a worker; started by the benchmark, not by hand."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from protocol import serve

from moecompress.runtime.engine import Engine


class Own:
    """One artifact, opened once."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._ids: list[int] = []

    def open(self, path: str, **options: Any) -> dict[str, Any]:
        """Open an artifact; options are those of Engine.open."""
        start = time.perf_counter()
        self._engine = Engine.open(path, **options)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "plan": self._engine.plan.as_dict(), "isa": self._engine.isa}

    def prefill(self, ids: list[int]) -> dict[str, Any]:
        """Read a prompt that begins unlike the one before, so that nothing is reused."""
        start = time.perf_counter()
        self._ids = list(ids)
        token, reused = self._open.start(self._ids)
        return {"seconds": time.perf_counter() - start, "reused": reused, "tokens": [token]}

    def decode(self, ids: list[int], limit: float = 1e9) -> dict[str, Any]:
        """Decode given ids one by one, choosing greedily each time; ends early after `limit` seconds."""
        seconds, tokens, begin = [], [], time.perf_counter()
        for token in ids:
            start = time.perf_counter()
            self._ids.append(token)
            tokens.append(self._open.step(self._ids))
            seconds.append(time.perf_counter() - start)
            if time.perf_counter() - begin > limit:
                break
        return {"seconds": seconds, "tokens": tokens, "store": asdict(self._open.store_stats())}

    def logits(self, ids: list[int], path: str) -> dict[str, Any]:
        """Save the logits after each id, `[n, vocabulary]`."""
        import numpy as np

        np.save(path, self._open.logits(ids))
        return {}

    @property
    def _open(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("No artifact is open; ask to open one first.")
        return self._engine


if __name__ == "__main__":
    serve(Own())
