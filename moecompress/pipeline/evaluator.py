"""Cross-entropy of a changed model on calibration text, one layer in memory at a time: what searching allocators call.

Hidden states between layers lie on disk. A change comes with a signature of each layer, and layers before the first one
whose signature differs from the last evaluation's are not run again, so evaluating experts one by one costs half of a
forward pass each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from moecompress.calibration.files import ArrayWriter, map_array, take
from moecompress.core.hashing import canonical_json, fingerprint
from moecompress.core.types import Projection
from moecompress.models.discover import ModelLayout
from moecompress.models.execute import LayerwiseModel
from moecompress.models.source import TensorSource
from moecompress.passes.base import LayerWeights, dense
from moecompress.pipeline.units import read_unit

_BATCH_TOKENS = 2048


class LayerwiseEvaluator:
    """Evaluates `source` with its layers changed, on the sequences `ids` `[N, S]`; works in the empty folder `scratch`.

    `known` keeps results by signature, so a search that was interrupted does not repeat what it has evaluated.
    """

    def __init__(
        self, source: TensorSource, layout: ModelLayout, ids: np.ndarray, scratch: Path, known: Path, identity: Any
    ) -> None:
        self._source, self._layout, self._ids = source, layout, ids
        self._scratch, self._known, self._identity = scratch, known, identity
        self._last: list[str] = []
        self._tokens = 0

    def __call__(
        self, change: Callable[[LayerWeights], LayerWeights], signature: Mapping[int, Any], tokens: int
    ) -> float:
        """Mean cross-entropy in nats over the next tokens of the first `tokens` tokens, at least one sequence."""
        keys = [canonical_json(signature.get(layer)) for layer in range(self._layout.layers)]
        name = fingerprint([self._identity, keys, tokens])[:32]
        path = self._known / f"{name}.json"
        if path.is_file():
            return float(json.loads(path.read_text()))
        value = self._evaluate(change, keys, tokens)
        self._known.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(value))
        partial.replace(path)
        return value

    def _evaluate(self, change: Callable[[LayerWeights], LayerWeights], keys: list[str], tokens: int) -> float:
        ids = self._ids[: max(1, tokens // self._ids.shape[1])]
        same = 0
        if tokens == self._tokens:
            same = next(
                (i for i, pair in enumerate(zip(keys, self._last, strict=False)) if len(set(pair)) > 1), len(self._last)
            )
        model = LayerwiseModel(self._source.config, self._layout)
        self._last, self._tokens = [], 0
        if not same:
            model.load_embedding(self._source.read)
            self._write(0, ids, (model.embed(torch.from_numpy(part)) for part in self._parts(ids)))
        for layer in range(max(0, same), self._layout.layers):
            self._load(model, layer, change)
            states = map_array(self._states(layer))
            parts = (model.run_layer(torch.from_numpy(take(states, part))) for part in self._slices(ids))
            self._write(layer + 1, ids, parts)
        self._last, self._tokens = keys, tokens
        model.load_head(self._source.read)
        return self._loss(model, ids)

    def _loss(self, model: LayerwiseModel, ids: np.ndarray) -> float:
        states, total = map_array(self._states(self._layout.layers)), 0.0
        for row in range(len(ids)):
            logits = model.head(torch.from_numpy(take(states, slice(row, row + 1))))[0, :-1].float()
            labels = torch.from_numpy(ids[row, 1:]).long()
            total += float(functional.cross_entropy(logits, labels, reduction="sum"))
        return total / (int(ids.size) - len(ids))

    def _load(self, model: LayerwiseModel, layer: int, change: Callable[[LayerWeights], LayerWeights]) -> None:
        changed = change(read_unit(self._source, self._layout, layer)[0])

        def trunk(name: str) -> torch.Tensor:
            return dense(changed.trunk[name].weight)

        def expert(index: int) -> dict[Projection, torch.Tensor]:
            return {projection: dense(weight) for projection, weight in changed.experts[index].items()}

        model.load_layer(layer, trunk, expert)

    def _write(self, layer: int, ids: np.ndarray, parts: Iterator[torch.Tensor]) -> None:
        hidden = next(iter(self._layout.moe.values())).hidden
        writer = ArrayWriter(self._states(layer), np.float32, (*ids.shape, hidden))
        for part in parts:
            writer.append(part.numpy())
        writer.close()

    def _states(self, layer: int) -> Path:
        return self._scratch / f"{layer:05d}.npy"

    def _parts(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        return (ids[part] for part in self._slices(ids))

    def _slices(self, ids: np.ndarray) -> list[slice]:
        step = max(1, _BATCH_TOKENS // ids.shape[1])
        return [slice(first, first + step) for first in range(0, len(ids), step)]
