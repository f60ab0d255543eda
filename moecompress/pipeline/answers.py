"""Answers of passes to their probes, kept on disk by what they depend on and shared between recipes.

An answer depends on the model's content, the calibration text, the passes before, the probe and the versions that
computed it, and on nothing else; so a recipe with another budget, or another allocator with the same probes, measures
nothing again. One layer is in memory at a time, and a layer's answers are safe before the next begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moecompress.core.errors import CalibrationError
from moecompress.core.hashing import canonical_json, fingerprint
from moecompress.core.progress import Progress

Measure = Callable[[int, Sequence[Any]], list[Any]]


class AnswerStore:
    """A folder of answers: `<root>/<probe's key>/<layer>.json`, each appearing whole. `identity` is what all share."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self._root = root / fingerprint(identity)[:32]

    def get(self, probe: Any, layer: int) -> Any:
        """The answer, or None. Raises CalibrationError for a damaged file."""
        path = self._path(probe, layer)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise CalibrationError(f"{path} is damaged: {error}. Delete it; it is made again.") from error

    def put(self, probe: Any, layer: int, answer: Any) -> None:
        """Keep an answer."""
        path = self._path(probe, layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "probe.json").write_text(canonical_json(probe) + "\n")
        partial = path.with_suffix(".tmp")
        partial.write_text(canonical_json(answer) + "\n")
        partial.replace(path)

    def _path(self, probe: Any, layer: int) -> Path:
        return self._root / fingerprint(probe)[:32] / f"{layer:05d}.json"


def answered(
    store: AnswerStore, probes: Mapping[int, Sequence[Any]], measure: Measure, progress: Progress, name: str
) -> dict[int, list[Any]]:
    """The answers to every probe of every layer; those that are not kept yet are measured, layer by layer."""
    missing = {
        layer: [probe for probe in asked if store.get(probe, layer) is None] for layer, asked in sorted(probes.items())
    }
    count = sum(bool(asked) for asked in missing.values())
    if count:
        progress.start(f"{name}: measure", count, "layers")
        for layer, asked in missing.items():
            if asked:
                for probe, answer in zip(asked, measure(layer, asked), strict=True):
                    store.put(probe, layer, answer)
                progress.advance()
        progress.finish()
    return {layer: [store.get(probe, layer) for probe in asked] for layer, asked in probes.items()}
