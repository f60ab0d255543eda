"""Models that can be evaluated: a checkpoint streamed layer by layer, an artifact in the native engine or the bridge.

Each gives, for windows of token ids, one `[n, vocabulary]` array of float32 logits per window, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from moecompress.core.errors import UsageError
from moecompress.core.types import Projection
from moecompress.evaluate.metrics import Floats
from moecompress.evaluate.reference import Window

if TYPE_CHECKING:
    import torch

EngineName = Literal["auto", "native", "transformers"]
_HIDDEN_BYTES = 256 << 20


class Target(Protocol):
    """Something that predicts tokens."""

    vocabulary: int

    def logits(self, windows: Sequence[Window]) -> Iterator[Floats]:
        """Logits after every token of every window."""

    def content_hash(self) -> str:
        """What the logits depend on, as a hash."""


class CheckpointTarget:
    """A Hugging Face folder in float32, one decoder layer in memory at a time."""

    def __init__(self, folder: Path) -> None:
        from moecompress.models.discover import discover
        from moecompress.models.execute import LayerwiseModel
        from moecompress.models.source import TensorSource

        self._source = TensorSource.open(folder)
        self._layout = discover(self._source)
        self._model = LayerwiseModel(self._source.config, self._layout)
        self.vocabulary = int(self._source.config["vocab_size"])

    def content_hash(self) -> str:
        """The checkpoint's content hash."""
        return self._source.content_hash()

    def logits(self, windows: Sequence[Window]) -> Iterator[Floats]:
        """Groups of windows of one length go through the layers together, as many as fit the activation limit."""
        for group in self._groups(windows):
            yield from self._group_logits(np.stack(group))

    def _groups(self, windows: Sequence[Window]) -> Iterator[list[Window]]:
        row = int(self._source.config["hidden_size"]) * 4
        group: list[Window] = []
        for window in windows:
            if group and (len(window) != len(group[0]) or (len(group) + 1) * len(window) * row > _HIDDEN_BYTES):
                yield group
                group = []
            group.append(window)
        if group:
            yield group

    def _group_logits(self, ids: Window) -> Iterator[Floats]:
        import torch

        from moecompress.models.experts import read_expert

        source, model, layout = self._source, self._model, self._layout
        model.load_embedding(source.read)
        hidden = model.embed(torch.from_numpy(ids.astype(np.int64)))
        for index in range(layout.layers):
            moe = layout.moe.get(index)
            model.load_layer(index, source.read, partial(read_expert, source, moe) if moe else _no_expert)
            for row in range(len(hidden)):
                hidden[row : row + 1] = model.run_layer(hidden[row : row + 1])
        model.load_head(source.read)
        for row in hidden:
            yield model.head(row[None])[0].float().numpy()
        model.unload()


class NativeTarget:
    """An artifact in the torch-free engine."""

    def __init__(self, folder: Path, context: int) -> None:
        from moecompress.runtime.engine import Engine

        self._engine = Engine.open(folder, context=context, logits=context)
        self.vocabulary = self._engine.vocabulary
        self._hash = self._engine.manifest.artifact_hash

    def content_hash(self) -> str:
        """The artifact's hash."""
        return self._hash

    def logits(self, windows: Sequence[Window]) -> Iterator[Floats]:
        """One prefill per window."""
        for window in windows:
            yield self._engine.logits(window)


class BridgeTarget:
    """An artifact as a transformers model."""

    def __init__(self, folder: Path) -> None:
        from moecompress.artifact.reader import read_manifest
        from moecompress.bridge.load import load_transformers

        self._model = load_transformers(folder)
        self._hash = read_manifest(folder).artifact_hash
        self.vocabulary = int(self._model.config.vocab_size)

    def content_hash(self) -> str:
        """The artifact's hash."""
        return self._hash

    def logits(self, windows: Sequence[Window]) -> Iterator[Floats]:
        """One forward pass per window."""
        import torch

        with torch.inference_mode():
            for window in windows:
                yield self._model(torch.from_numpy(window.astype(np.int64))[None]).logits[0].float().numpy()


def _no_expert(expert: int) -> dict[Projection, torch.Tensor]:
    return {}


def is_artifact(folder: Path) -> bool:
    """Whether a folder is an artifact of this project."""
    return (folder / "manifest.json").is_file()


def open_target(folder: Path, engine: EngineName, context: int) -> Target:
    """The target for a folder; `auto` is native for artifacts and transformers for checkpoints."""
    if not is_artifact(folder):
        if engine == "native":
            raise UsageError(f"{folder} is a checkpoint; the native engine runs artifacts. Use --engine transformers.")
        return CheckpointTarget(folder)
    return BridgeTarget(folder) if engine == "transformers" else NativeTarget(folder, context)
