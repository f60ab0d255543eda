"""Collects statistics of the original model, layer by layer, through transformers' own modules.

The hidden states of all sequences lie on disk between layers and go through the resident layer in batches, so peak
memory is one layer and one batch. After a kill, collection goes on with the first layer that is missing, from the
hidden states that enter it, and ends in the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from moecompress.calibration.files import ArrayWriter, map_array, take
from moecompress.calibration.record import LayerRecorder
from moecompress.calibration.statistics import coverage_summary
from moecompress.calibration.store import StatisticsEntry, StatisticsStore, told_when_full
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

_BATCH_TOKENS = 4096


def collect(
    source: TensorSource,
    layout: ModelLayout,
    tokens: TokenSet,
    store: StatisticsStore,
    progress: Progress | None = None,
) -> StatisticsEntry:
    """The statistics of every decoder layer on `tokens`; what the store has already is not collected again.

    Raises SourceError for bad weights, CalibrationError when the disk is too small.
    """
    progress = progress or Silent()
    entry = store.entry(source.content_hash(), tokens.hash)
    with entry.locked(), told_when_full(entry.folder):
        missing = [layer for layer in range(layout.layers) if not entry.has(layer)]
        if missing:
            _refuse_small_disk(entry.folder, layout, int(tokens.ids.size), missing)
            _Collection(source, layout, tokens, entry, progress).run(missing)
        else:
            progress.log(f"statistics of all {layout.layers} layers are reused: {tokens.description}")
        entry.drop_hidden()
    return entry


class _Collection:
    """One run over the missing layers of an entry."""

    def __init__(
        self, source: TensorSource, layout: ModelLayout, tokens: TokenSet, entry: StatisticsEntry, progress: Progress
    ) -> None:
        self._source = source
        self._layout = layout
        self._ids = tokens.ids
        self._entry = entry
        self._progress = progress
        self._model = LayerwiseModel(source.config, layout)
        self._step = max(1, _BATCH_TOKENS // self._ids.shape[1])

    def run(self, missing: list[int]) -> None:
        first = self._entry.latest_hidden(missing[0])
        if first is None:
            first = 0
            self._embed()
        last = missing[-1]
        self._progress.start("statistics", (last + 1 - first) * len(self._ids), "sequences")
        for layer in range(first, last + 1):
            self._load(layer)
            self._run_layer(layer, record=layer in missing, keep_output=layer < last)
            self._entry.drop_hidden(keep=layer + 1)
        self._model.unload()
        self._progress.finish()

    def _load(self, layer: int) -> None:
        moe = self._layout.moe.get(layer)

        def expert(index: int) -> dict[Projection, torch.Tensor]:
            return read_expert(self._source, moe, index) if moe else {}

        self._model.load_layer(layer, self._source.read, expert)

    def _embed(self) -> None:
        self._model.load_embedding(self._source.read)
        with self._hidden_writer(0) as writer:
            for first in range(0, len(self._ids), self._step):
                ids = torch.from_numpy(self._ids[first : first + self._step])
                writer.append(self._model.embed(ids).numpy())

    def _run_layer(self, layer: int, record: bool, keep_output: bool) -> None:
        """The new layer folder appears after the new hidden states do, so what it needs next is there."""
        with ExitStack() as stack:
            recorder = stack.enter_context(self._recorder(layer)) if record else None
            writer = stack.enter_context(self._hidden_writer(layer + 1)) if keep_output else None
            for batch in self._batches(layer):
                output = self._model.run_layer(batch)
                if recorder is not None:
                    recorder.next_batch()
                if writer is not None:
                    writer.append(output.numpy())
                self._progress.advance(len(batch))
        if record and layer in self._layout.moe:
            self._log(layer)

    def _batches(self, layer: int) -> Iterator[torch.Tensor]:
        hidden = map_array(self._entry.hidden(layer))
        for first in range(0, len(hidden), self._step):
            yield torch.from_numpy(take(hidden, slice(first, first + self._step)))

    @contextmanager
    def _hidden_writer(self, layer: int) -> Iterator[ArrayWriter]:
        shape = (*self._ids.shape, self._hidden_size)
        with self._entry.new_hidden(layer) as path:
            writer = ArrayWriter(path, np.float32, shape)
            yield writer
            writer.close()

    @contextmanager
    def _recorder(self, layer: int) -> Iterator[LayerRecorder]:
        with self._entry.new_layer(layer) as folder:
            recorder = LayerRecorder(self._model, layer, self._ids.size, folder)
            with recorder.watching():
                yield recorder
            recorder.write()

    @property
    def _hidden_size(self) -> int:
        return next(iter(self._layout.moe.values())).hidden

    def _log(self, layer: int) -> None:
        statistics = self._entry.layer(layer)
        rows = statistics.coverage_table()
        details = {"coverage": [asdict(row) for row in rows]}
        self._progress.log(f"layer {layer}: {coverage_summary(rows, len(statistics.absmax_in))}", details)


def disk_bytes(layout: ModelLayout, tokens: int, layers: Collection[int] | None = None) -> int:
    """Upper bound on the disk that collecting `layers` (all by default) takes, hidden states included."""
    chosen = range(layout.layers) if layers is None else layers
    hidden = next(iter(layout.moe.values())).hidden
    total = 2 * 4 * tokens * hidden
    for layer in chosen:
        total += sum(4 * tensor.shape[1] ** 2 for tensor in layout.layer_trunk(layer) if len(tensor.shape) == 2)
        if layer in layout.moe:
            moe = layout.moe[layer]
            total += tokens * (2 * moe.hidden + 6 * moe.top_k) + 8 * moe.experts**2
    return total


def _refuse_small_disk(folder: Path, layout: ModelLayout, tokens: int, missing: list[int]) -> None:
    needed, free = disk_bytes(layout, tokens, missing), shutil.disk_usage(folder).free
    if needed > free:
        raise CalibrationError(
            f"Statistics need {format_size(needed)} of disk in {folder}, where {format_size(free)} are free. "
            "Lower calibration.tokens, free some space, or keep the cache elsewhere."
        )
