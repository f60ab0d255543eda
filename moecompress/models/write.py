"""Writes a Hugging Face checkpoint folder, tensor by tensor: resident memory is one shard, or one stacked tensor.

The folder appears by one rename, whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from moecompress.core.errors import MoecompressError, UsageError
from moecompress.core.units import format_size
from moecompress.models.discover import ModelLayout
from moecompress.models.experts import Expert, expert_tensors
from moecompress.models.layouts import template_of
from moecompress.models.source import CONFIG, INDEX, SINGLE

DEFAULT_SHARD_BYTES = 1 << 30


def relaid(layout: ModelLayout, code: str) -> ModelLayout:
    """The same model with its experts stored as another row of the layout table, for example C4 (stacked)."""
    template = template_of(code)
    moe = {index: replace(layer, layout=template.layout(layer.path)) for index, layer in layout.moe.items()}
    return replace(layout, moe=moe)


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    layout: ModelLayout,
    read_trunk: Callable[[str], torch.Tensor],
    read_expert: Callable[[int, int], Expert],
    *,
    assets: Mapping[str, Path] | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Path:
    """Write a checkpoint: `read_trunk(name)` and `read_expert(layer, e)` (canonical matrices) give the values.

    `layout` says under which names; `assets` (file name → path) are copied. A single file is written when everything
    fits into one shard. Raises UsageError when `folder` exists, MoecompressError when the disk does not take it.
    """
    folder = Path(folder)
    with _new_folder(folder) as temporary:
        shards = _ShardWriter(temporary, max_shard_bytes)
        for name, tensor in _tensors(layout, read_trunk, read_expert):
            shards.add(name, tensor)
        shards.finish()
        (temporary / CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, path in sorted((assets or {}).items()):
            shutil.copyfile(path, temporary / name)
    return folder


def _tensors(
    layout: ModelLayout, read_trunk: Callable[[str], torch.Tensor], read_expert: Callable[[int, int], Expert]
) -> Iterator[tuple[str, torch.Tensor]]:
    for layer in (None, *range(layout.layers)):
        for tensor in layout.layer_trunk(layer):
            yield tensor.name, read_trunk(tensor.name)
        if layer is not None and layer in layout.moe:
            yield from expert_tensors(layout.moe[layer], partial(read_expert, layer))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Choose another output folder, or remove it first.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
        raise MoecompressError(
            f"{folder} could not be written: {error}. Nothing was left behind; {format_size(free)} are free there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _ShardWriter:
    """Collects tensors and saves a shard whenever the next tensor would overfill it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._waiting: dict[str, torch.Tensor] = {}
        self._waiting_bytes = 0
        self._total = 0
        self._shards: list[tuple[str, ...]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take one tensor."""
        if self._waiting and self._waiting_bytes + tensor.nbytes > self._limit:
            self._save()
        self._waiting[name] = tensor.contiguous()
        self._waiting_bytes += tensor.nbytes

    def finish(self) -> None:
        """Save what waits, and give the files their final names, with an index when there are several."""
        self._save()
        if len(self._shards) == 1:
            self._partial(0).rename(self._folder / SINGLE)
            return
        places = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"
            self._partial(number).rename(self._folder / file)
            places.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(places.items()))}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _partial(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}.partial"

    def _save(self) -> None:
        save_file(self._waiting, self._partial(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(tuple(self._waiting))
        self._total += self._waiting_bytes
        self._waiting, self._waiting_bytes = {}, 0
