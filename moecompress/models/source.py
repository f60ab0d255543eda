"""A Hugging Face checkpoint folder as a source of tensors: headers up front, weights only when asked for.

Only safetensors files are read, in one file or sharded with an index; nothing in the folder is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from moecompress.core.errors import SourceError
from moecompress.core.hashing import fingerprint, sha256_file
from moecompress.models.shards import RENEW_BYTES, ShardReader, TensorEntry, read_header

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
ASSETS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip


class TensorSource:
    """Names, shapes and types of a checkpoint's tensors, and their values row range by row range.

    `config` is the parsed config.json; `assets` are the tokenizer and generation files that travel with the model.
    """

    def __init__(self, folder: Path, config: dict[str, Any], entries: Mapping[str, TensorEntry]) -> None:
        self.folder = folder
        self.config = config
        self._entries = entries
        self._readers: dict[Path, ShardReader] = {}

    @classmethod
    def open(cls, folder: str | Path) -> TensorSource:
        """The source in `folder`. Raises SourceError when it is not a whole safetensors checkpoint."""
        folder = Path(folder)
        if not folder.is_dir():
            raise SourceError(f"There is no model folder {folder}. Name one with config.json and safetensors files.")
        config = _read_json(folder / CONFIG)
        if not isinstance(config.get("model_type"), str):
            raise SourceError(f"{folder / CONFIG} names no model_type, so the family is unknown. Add it.")
        return cls(folder, config, _read_entries(folder))

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, sorted."""
        return tuple(sorted(self._entries))

    @property
    def shards(self) -> tuple[Path, ...]:
        """The weight files, sorted."""
        return tuple(sorted({entry.shard for entry in self._entries.values()}))

    @property
    def assets(self) -> dict[str, Path]:
        """File name → path of the tokenizer and generation files present."""
        return {name: self.folder / name for name in ASSETS if (self.folder / name).is_file()}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor, from the header."""
        return self._entry(name).dtype

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor's data."""
        entry = self._entry(name)
        return entry.row_bytes * (entry.shape[0] if entry.shape else 1)

    def read(self, name: str, index: int | slice | None = None) -> torch.Tensor:
        """A copy of a tensor, or of `tensor[index]` along its first axis (an int drops the axis; slices have step 1).

        Raises SourceError naming the tensor when a value is NaN or infinite.
        """
        entry = self._entry(name)
        reader = self._readers.setdefault(entry.shard, ShardReader(entry.shard))
        if not entry.shape:
            return _checked(name, reader.scalar(name))
        start, stop = _rows(name, entry, index)
        out = torch.empty((stop - start, *entry.shape[1:]), dtype=entry.dtype)
        step = max(1, RENEW_BYTES // max(1, entry.row_bytes))
        for row in range(start, stop, step):
            last = min(row + step, stop)
            piece = out[row - start : last - start]
            reader.copy_rows(name, row, last, piece)
            _checked(name, piece)
        return out[0] if isinstance(index, int) else out

    def close(self) -> None:
        """End all mappings; reading again opens them anew."""
        for reader in self._readers.values():
            reader.close()

    def content_hash(self, on_bytes: Callable[[int], None] | None = None) -> str:
        """Hex sha256 over config.json and every weight file; `on_bytes` is told of each block read."""
        files = {path.relative_to(self.folder).as_posix(): sha256_file(path, on_bytes) for path in self.shards}
        return fingerprint({CONFIG: sha256_file(self.folder / CONFIG), **files})

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise SourceError(f"{self.folder} has no tensor {name!r}. The checkpoint is incomplete.")
        return self._entries[name]


def _checked(name: str, values: torch.Tensor) -> torch.Tensor:
    if values.is_floating_point() and values.element_size() > 1 and not bool(torch.isfinite(values).all()):
        raise SourceError(f"The weights of {name!r} hold NaN or infinite values. The checkpoint is damaged.")
    return values


def _rows(name: str, entry: TensorEntry, index: int | slice | None) -> tuple[int, int]:
    rows = entry.shape[0]
    if isinstance(index, int):
        if not 0 <= index < rows:
            raise SourceError(f"{name!r} has no row {index}; its first axis has {rows}.")
        return index, index + 1
    start, stop, step = (index or slice(None)).indices(rows)
    if step != 1:
        raise SourceError(f"{name!r} was asked for rows with step {step}; only step 1 is read.")
    return start, max(start, stop)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path} is missing. A model folder holds config.json and safetensors files.") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} is no JSON object.")
    return value


def _read_entries(folder: Path) -> dict[str, TensorEntry]:
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    if (folder / INDEX).exists():
        return _read_sharded(folder)
    loose = sorted(folder.glob("*.safetensors"))
    if loose:
        raise SourceError(f"{folder} holds {loose[0].name} but neither {SINGLE} nor {INDEX}. Fetch the index.")
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise SourceError(
            f"{folder} has its weights only as pickle ({pickles[0]}), which can run code when opened: never read. "
            "Convert it to safetensors first."
        )
    raise SourceError(f"{folder} holds no weights. {SINGLE}, or {INDEX} with its shards, is needed.")


def _read_sharded(folder: Path) -> dict[str, TensorEntry]:
    index = folder / INDEX
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise SourceError(f"{index} has no weight_map from tensor names to file names.")
    shards = {file: read_header(_inside(folder, file, index)) for file in sorted(set(places.values()))}
    for name, file in sorted(places.items()):
        if name not in shards[file]:
            raise SourceError(f"{index} places {name!r} in {file}, which does not hold it. Fetch both again.")
    for file, entries in shards.items():
        for name in sorted(entries):
            if places.get(name) != file:
                raise SourceError(f"{file} holds {name!r}, which {INDEX} places in {places.get(name, 'no file')}.")
    return {name: shards[file][name] for name, file in places.items()}


def _inside(folder: Path, file: str, index: Path) -> Path:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".safetensors":
        raise SourceError(f"{index} names the shard {file!r}; a safetensors file inside the folder is required.")
    return folder / path
