"""Gradients of the cross-entropy at every decoder layer's output, without ever holding more than one layer.

Forward, the hidden states that enter each layer are kept on disk; backward, each layer is loaded again, run on them
with gradients, and turns the gradient of what leaves it into that of what enters it, which is that of the layer
before's output. So one sweep down the layers is one backward pass through the whole model. The loss is the sum over a
sequence's tokens of the cross-entropy of the next one: `text` takes the text's own, `model` draws it from the model's
prediction, one seeded draw a token, and then the mean of γ γᵀ is the Fisher information of the output.

Gradients are rounded to bfloat16 on disk, and the sweep goes on from there, so after a kill it ends in the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional

from moecompress.calibration.files import ArrayWriter, bf16_bits, from_bf16_bits, map_array, sync_folder, take
from moecompress.calibration.store import StatisticsEntry, told_when_full
from moecompress.core.errors import CalibrationError
from moecompress.core.progress import Progress, Silent
from moecompress.core.types import Projection
from moecompress.core.units import format_size
from moecompress.models.execute import LayerwiseModel
from moecompress.models.experts import read_expert

if TYPE_CHECKING:
    from moecompress.calibration.texts import TokenSet
    from moecompress.models.discover import ModelLayout
    from moecompress.models.source import TensorSource

Labels = Literal["text", "model"]
_BATCH_TOKENS = 1024


def collect_gradients(
    source: TensorSource,
    layout: ModelLayout,
    tokens: TokenSet,
    entry: StatisticsEntry,
    count: int,
    labels: Labels,
    progress: Progress | None = None,
) -> StatisticsEntry:
    """The entry with output gradients of every layer for the first sequences, `count` tokens, at least one sequence.

    What is on disk already is not computed again. Raises CalibrationError when the disk is too small.
    """
    progress = progress or Silent()
    sequences = max(1, min(len(tokens.ids), count // tokens.ids.shape[1]))
    folder = entry.folder / "gradients" / f"{labels}-{sequences:05d}"
    with entry.locked(), told_when_full(entry.folder):
        folder.mkdir(parents=True, exist_ok=True)
        if all(_gradient(folder, layer).is_file() for layer in range(layout.layers)):
            progress.log(f"output gradients ({labels}) of {sequences} sequences are reused")
        else:
            _refuse_small_disk(folder, layout, sequences * tokens.ids.shape[1])
            _Sweep(source, layout, tokens.ids[:sequences], folder, labels, progress).run()
        shutil.rmtree(folder / "hidden", ignore_errors=True)
    return entry.with_gradients(folder)


def gradient_disk_bytes(layout: ModelLayout, tokens: int) -> int:
    """What the sweep takes on disk: float32 hidden states between all layers, bfloat16 gradients that stay."""
    hidden = next(iter(layout.moe.values())).hidden
    return tokens * hidden * (4 * (layout.layers + 1) + 2 * layout.layers)


def _gradient(folder: Path, layer: int) -> Path:
    return folder / f"{layer:05d}.npy"


class _Sweep:
    """Down and up again over the sequences `ids` `[N, S]`."""

    def __init__(
        self,
        source: TensorSource,
        layout: ModelLayout,
        ids: np.ndarray,
        folder: Path,
        labels: Labels,
        progress: Progress,
    ) -> None:
        self._source, self._layout, self._ids = source, layout, ids
        self._folder, self._labels, self._progress = folder, labels, progress
        self._model = LayerwiseModel(source.config, layout)
        self._step = max(1, _BATCH_TOKENS // ids.shape[1])
        self._hidden_size = next(iter(layout.moe.values())).hidden

    def run(self) -> None:
        (self._folder / "hidden").mkdir(exist_ok=True)
        last = self._layout.layers
        entering = [layer for layer in range(last + 1) if not self._hidden(layer).is_file()]
        leaving = [layer for layer in reversed(range(last)) if not _gradient(self._folder, layer).is_file()]
        if leaving[0] < last - 1:  # the states above the gradients at hand are not needed again
            entering = [layer for layer in entering if layer <= leaving[0] + 1]
        self._progress.start("output gradients", (len(entering) + len(leaving)) * len(self._ids), "sequences")
        for layer in entering:
            self._enter(layer)
        for layer in leaving:
            self._leave(layer)
        self._model.unload()
        self._progress.finish()

    def _enter(self, layer: int) -> None:
        """The hidden states that enter `layer`; those that leave the model for the number of layers."""
        shape = (*self._ids.shape, self._hidden_size)
        if layer == 0:
            self._model.load_embedding(self._source.read)
            parts = (self._model.embed(torch.from_numpy(ids)) for ids in self._batches(self._ids))
        else:
            self._load(layer - 1)
            before = map_array(self._hidden(layer - 1))
            parts = (self._model.run_layer(torch.from_numpy(rows)) for rows in self._batches(before))
        with _appearing(self._hidden(layer), np.float32, shape) as writer:
            for part in parts:
                writer.append(part.numpy())
                self._progress.advance(len(part))

    def _leave(self, layer: int) -> None:
        """The gradient at the output of `layer`: from the head for the last one, else through the layer above."""
        above = layer + 1
        shape = (int(self._ids.size), self._hidden_size)
        states = map_array(self._hidden(above))
        if above == self._layout.layers:
            self._model.load_head(self._source.read)
            parts = self._from_head(states)
        else:
            self._load(above)
            parts = self._through_layer(states, map_array(_gradient(self._folder, above)))
        with _appearing(_gradient(self._folder, layer), np.uint16, shape) as writer:
            for part in parts:
                writer.append(bf16_bits(part.reshape(-1, self._hidden_size)))
                self._progress.advance(len(part))

    def _from_head(self, states: np.memmap[Any, Any]) -> Iterator[torch.Tensor]:
        """One sequence after the other: logits are large."""
        for row in range(len(self._ids)):
            hidden = torch.from_numpy(take(states, slice(row, row + 1)))
            yield self._model.head_gradient(hidden, partial(self._loss, row))

    def _loss(self, row: int, logits: torch.Tensor) -> torch.Tensor:
        """Sum of the next tokens' cross-entropy over a sequence; drawn labels also follow its last token."""
        rows = logits[0].float()
        if self._labels == "text":
            labels = torch.from_numpy(self._ids[row, 1:]).long()
            return functional.cross_entropy(rows[:-1], labels, reduction="sum")
        draws = torch.Generator().manual_seed(row)
        with torch.no_grad():
            labels = torch.multinomial(torch.softmax(rows, -1), 1, generator=draws)[:, 0]
        return functional.cross_entropy(rows, labels, reduction="sum")

    def _through_layer(self, states: np.memmap[Any, Any], above: np.memmap[Any, Any]) -> Iterator[torch.Tensor]:
        length = self._ids.shape[1]
        for first in range(0, len(self._ids), self._step):
            hidden = torch.from_numpy(take(states, slice(first, first + self._step)))
            gradient = from_bf16_bits(take(above, slice(first * length, (first + len(hidden)) * length)))
            yield self._model.layer_gradient(hidden, gradient.reshape(hidden.shape))

    def _batches(self, rows: Any) -> Iterator[Any]:
        for first in range(0, len(rows), self._step):
            part = slice(first, first + self._step)
            yield take(rows, part) if isinstance(rows, np.memmap) else rows[part]

    def _load(self, layer: int) -> None:
        moe = self._layout.moe.get(layer)

        def expert(index: int) -> dict[Projection, torch.Tensor]:
            return read_expert(self._source, moe, index) if moe else {}

        self._model.load_layer(layer, self._source.read, expert)

    def _hidden(self, layer: int) -> Path:
        return self._folder / "hidden" / f"{layer:05d}.npy"


@contextmanager
def _appearing(path: Path, dtype: Any, shape: tuple[int, ...]) -> Iterator[ArrayWriter]:
    """A file that takes its place when the block ends and is removed when it fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        writer = ArrayWriter(partial, dtype, shape)
        yield writer
        writer.close()
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _refuse_small_disk(folder: Path, layout: ModelLayout, tokens: int) -> None:
    needed, free = gradient_disk_bytes(layout, tokens), shutil.disk_usage(folder).free
    if needed > free:
        raise CalibrationError(
            f"Output gradients need {format_size(needed)} of disk in {folder}, where {format_size(free)} are free. "
            "Lower calibration.gradient_tokens, free some space, or keep the cache elsewhere."
        )
