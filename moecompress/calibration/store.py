"""Statistics on disk: a folder per model and calibration text, in it one per layer, which appears whole or not at all.

    <root>/<key>/entry.json           what the key was made of
    <root>/<key>/layers/00003/        the files of `LayerStatistics`
    <root>/<key>/hidden-00004.npy     hidden states that enter layer 4, while collection is under way
    <root>/<key>/gradients/<what>/    00003.npy: output gradients of layer 3 (`moecompress.calibration.gradients`)

The key is a hash of the model's content, the token ids, this format and the libraries that computed, so an entry is
valid for every recipe and never needs checking. One process writes to an entry at a time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from moecompress.calibration.files import sync_folder
from moecompress.calibration.statistics import LayerStatistics
from moecompress.core.errors import CalibrationError
from moecompress.core.hashing import fingerprint

FORMAT = 1
_COMPUTED_BY = ("torch", "transformers")
_PARTIAL = ".partial"


class StatisticsStore:
    """A folder of entries."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, source_hash: str, tokens_hash: str) -> StatisticsEntry:
        """The entry for a model's content hash and a token set's hash, made if it is new."""
        identity = {
            "format": FORMAT,
            "source": source_hash,
            "tokens": tokens_hash,
            **{name: version(name) for name in _COMPUTED_BY},
        }
        folder = self.root / fingerprint(identity)[:32]
        (folder / "layers").mkdir(parents=True, exist_ok=True)
        if not (folder / "entry.json").is_file():
            _write_text(folder / "entry.json", json.dumps(identity, indent=1))
        return StatisticsEntry(folder)


@dataclass(frozen=True)
class StatisticsEntry:
    """The statistics of one model on one token set, complete or still growing."""

    folder: Path
    gradients: tuple[Path, ...] = ()

    def has(self, layer: int) -> bool:
        """Whether a layer's statistics are there."""
        return self._layer(layer).is_dir()

    def layer(self, layer: int) -> LayerStatistics:
        """A layer's statistics. Raises CalibrationError when they were not collected or are damaged."""
        if not self.has(layer):
            raise CalibrationError(f"{self.folder} has no statistics of layer {layer} yet; collect them first.")
        found = {folder.name.partition("-")[0]: folder / f"{layer:05d}.npy" for folder in self.gradients}
        return LayerStatistics.load(self._layer(layer), {name: path for name, path in found.items() if path.is_file()})

    def with_gradients(self, folder: Path) -> StatisticsEntry:
        """This entry with output gradients in `folder`, whose name begins with the kind of labels and a hyphen."""
        return replace(self, gradients=(*self.gradients, folder))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive use by this process; waits for another one. What a killed process left half-made is removed."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for path in [*self.folder.glob(f"*{_PARTIAL}"), *self.folder.glob(f"layers/*{_PARTIAL}")]:
                _remove(path)
            yield

    @contextmanager
    def new_layer(self, layer: int) -> Iterator[Path]:
        """A folder for a layer's files; it takes its place when the block ends and is removed when the block fails."""
        final = self._layer(layer)
        partial = final.with_name(final.name + _PARTIAL)
        with _appearing(partial, final):
            partial.mkdir()
            yield partial
            sync_folder(partial)

    @contextmanager
    def new_hidden(self, layer: int) -> Iterator[Path]:
        """A file for the hidden states that enter `layer`; like `new_layer`."""
        final = self.hidden(layer)
        partial = final.with_name(final.name + _PARTIAL)
        with _appearing(partial, final):
            yield partial

    def hidden(self, layer: int) -> Path:
        """Where the hidden states that enter `layer` are kept."""
        return self.folder / f"hidden-{layer:05d}.npy"

    def latest_hidden(self, layer: int) -> int | None:
        """The highest layer up to `layer` whose hidden states are kept."""
        return next((index for index in range(layer, -1, -1) if self.hidden(index).is_file()), None)

    def drop_hidden(self, keep: int | None = None) -> None:
        """Delete all kept hidden states but those that enter layer `keep`."""
        for path in self.folder.glob("hidden-*.npy"):
            if keep is None or path != self.hidden(keep):
                path.unlink()

    def _layer(self, layer: int) -> Path:
        return self.folder / "layers" / f"{layer:05d}"


@contextmanager
def _appearing(partial: Path, final: Path) -> Iterator[None]:
    try:
        yield
        partial.replace(final)
    except BaseException:
        _remove(partial)
        raise
    sync_folder(final.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text + "\n")
    partial.replace(path)


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise CalibrationError(
            f"The disk is full: statistics could not be written to {folder}. Free some space, or keep the cache "
            "elsewhere; finished layers are kept and the same command goes on after them."
        ) from error
