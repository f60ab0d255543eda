"""Text from the builtin collection, local files or the hub, as rows that are read one at a time.

Files go through `datasets` and its packaged text, json and parquet readers, with the cache in a temporary folder; a
dataset of the hub is cached where the user's other datasets are. Only the lengths of all rows are known up front, so a
corpus may be larger than memory.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moecompress.calibration.builtin import builtin_documents
from moecompress.calibration.options import BUILTIN, Kind, TextSource
from moecompress.core.errors import CalibrationError

if TYPE_CHECKING:
    from datasets import Dataset

ChatRenderer = Callable[[Sequence[Mapping[str, Any]]], str]

_READERS: dict[str, tuple[str, ...]] = {
    "text": (".txt", ".text", ".md", ".rst"),
    "json": (".jsonl", ".json", ".ndjson"),
    "parquet": (".parquet",),
}
_KIND_READERS: dict[Kind, tuple[str, ...]] = {
    "auto": ("text", "json", "parquet"),
    "text": ("text",),
    "jsonl": ("json",),
    "parquet": ("parquet",),
    "chat": ("json", "parquet"),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_UNCUT = 1


@dataclass(frozen=True)
class Corpus:
    """Rows of text. `lengths[i]` is row i's length in characters, 0 when empty; chat rows, never cut, count as 1."""

    name: str
    lengths: Sequence[int]
    text: Callable[[int], str]


@contextmanager
def open_corpora(source: TextSource, render_chat: ChatRenderer) -> Iterator[list[Corpus]]:
    """The corpora of a source, usable inside the `with` block. Raises CalibrationError."""
    if source.path == BUILTIN:
        yield [_builtin(source.split or "calibration")]
        return
    with tempfile.TemporaryDirectory(prefix="moecompress-texts-") as cache:
        yield [_corpus(source, name, rows, render_chat) for name, rows in _load(source, Path(cache))]


def heldout_corpus() -> Corpus:
    """The builtin text that is kept for evaluation."""
    return _builtin("heldout")


def _builtin(split: str) -> Corpus:
    texts = [document.text for document in builtin_documents(split)]
    return Corpus(f"{BUILTIN} ({split})", [len(text) for text in texts], texts.__getitem__)


def _load(source: TextSource, cache: Path) -> Iterator[tuple[str, Dataset]]:
    path = Path(source.path).expanduser()
    if path.exists():
        for reader, files in _files(source, path).items():
            yield source.path, _read_files(source, reader, files, cache)
    elif _HUB_ID.fullmatch(source.path) and path.suffix not in sum(_READERS.values(), ()):
        yield source.path, _read_hub(source)
    else:
        raise CalibrationError(
            f"The text {source.path!r} does not exist (looked for {path.absolute()}). "
            "Give an existing file or folder, a dataset id of the form owner/name, or builtin."
        )


def _files(source: TextSource, path: Path) -> dict[str, list[Path]]:
    """Reader → files, sorted. A single file of unknown suffix is text."""
    readers = _KIND_READERS[source.kind]
    if path.is_file():
        known = [reader for reader in readers if path.suffix.lower() in _READERS[reader]]
        chosen = {(known or readers)[0]: [path]}
    else:
        found = sorted(file for file in path.rglob("*") if file.is_file())
        chosen = {reader: [file for file in found if file.suffix.lower() in _READERS[reader]] for reader in readers}
    whole = {reader: [file for file in files if file.stat().st_size] for reader, files in chosen.items()}
    if not any(chosen.values()):
        suffixes = ", ".join(suffix for reader in readers for suffix in _READERS[reader])
        raise CalibrationError(
            f"The folder {path} holds no file of kind {source.kind}; looked for {suffixes} in it and below. "
            "Name a file, or set kind."
        )
    if not any(whole.values()):
        raise CalibrationError(f"The text {path} is empty. Give a file with text in it, or builtin.")
    return {reader: files for reader, files in whole.items() if files}


def _read_files(source: TextSource, reader: str, files: list[Path], cache: Path) -> Dataset:
    options: dict[str, Any] = {"sample_by": "document"} if reader == "text" else {}
    names = [str(file) for file in files]
    with _reading(source, f"{reader} files", "Check the path, kind and split."):
        return _load_dataset(reader, source, data_files=names, cache_dir=str(cache), **options)


def _read_hub(source: TextSource) -> Dataset:
    hint = (
        "It is no local file or folder, so it was looked for on the hub; when this machine is offline, "
        "copy the data here and give its path."
    )
    with _reading(source, "a dataset of the hub", hint):
        return _load_dataset(source.path, source)


def _load_dataset(builder: str, source: TextSource, **options: Any) -> Dataset:
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(builder, split=source.split or "train", **options)
    finally:
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _reading(source: TextSource, what: str, hint: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, StopIteration, ValueError, OSError) as error:
        reason = str(error.__cause__ or error).strip().rstrip(".") or "it holds no rows"
        raise CalibrationError(f"The text {source.path!r} could not be read as {what}: {reason}. {hint}") from error


def _corpus(source: TextSource, name: str, rows: Dataset, render_chat: ChatRenderer) -> Corpus:
    columns = rows.column_names
    chat = source.kind == "chat" or (source.kind == "auto" and "messages" in columns and source.text_field is None)
    field = source.text_field or ("messages" if chat else "text")
    if field not in columns:
        raise CalibrationError(
            f"The text {source.path!r} has no column {field!r}; it has {', '.join(columns)}. "
            "Set text_field to one of them."
        )
    rows = rows.select_columns([field])
    if chat:
        return Corpus(name, [_UNCUT] * len(rows), lambda i: _chat_text(source, rows[i][field], render_chat))
    return Corpus(name, _lengths(source, rows, field), lru_cache(maxsize=1)(lambda i: rows[i][field]))


def _lengths(source: TextSource, rows: Dataset, field: str) -> list[int]:
    import pyarrow.compute as compute
    import pyarrow.types as types

    lengths: list[int] = []
    for table in rows.with_format("arrow").iter(batch_size=1000):
        column = table[field]
        if not (types.is_string(column.type) or types.is_large_string(column.type)):
            raise CalibrationError(
                f"The column {field!r} of {source.path!r} holds {column.type}, not text. "
                "Set text_field to a text column, or kind: chat for a list of messages."
            )
        lengths += [length or 0 for length in compute.utf8_length(column).to_pylist()]
    return lengths


def _chat_text(source: TextSource, messages: Any, render_chat: ChatRenderer) -> str:
    rows = messages if isinstance(messages, list) else [messages]
    if not all(isinstance(row, dict) and {"role", "content"} <= row.keys() for row in rows):
        raise CalibrationError(
            f"A chat row of {source.path!r} is not a list of messages with role and content: {str(messages)[:80]}. "
            "Set text_field to the column of messages, or kind to what the file holds."
        )
    return render_chat(rows)
