"""Records the routing of texts through the engine into a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moecompress.artifact.manifest import Manifest
from moecompress.core.errors import UsageError
from moecompress.core.progress import Progress, Silent
from moecompress.runtime.engine import Engine
from moecompress.runtime.trace import Sequence, TraceHeader, new_trace

_CHARACTERS_PER_TOKEN = 16  # read at most; text has 3 to 5
_BYTES_PER_TOKEN = 48  # of a list of ids, and of the text they come from
_ROUTING_BYTES = 8 << 20  # of a chunk's routing: 256 tokens, 128 layers, 8 experts and 16 guesses, copied once


@dataclass(frozen=True)
class TracedText:
    """Ids of one text."""

    name: str
    ids: list[int]


def aside_bytes(texts: list[Path], tokens: int | None) -> int:
    """Memory that reading the texts and recording them takes beside the engine."""
    size = sum(path.stat().st_size for path in texts if path.is_file())
    read = size if tokens is None else min(size, tokens * _CHARACTERS_PER_TOKEN)
    return _ROUTING_BYTES + _BYTES_PER_TOKEN * read


def read_texts(engine: Engine, paths: list[Path], tokens: int | None) -> list[TracedText]:
    """The first `tokens` tokens of all texts, shared evenly; what one cannot fill goes to those after it.

    Raises UsageError for a text that is missing, empty or not UTF-8.
    """
    texts: list[TracedText] = []
    for position, path in enumerate(paths):
        done = sum(len(text.ids) for text in texts)
        share = None if tokens is None else -(-(tokens - done) // (len(paths) - position))
        texts.append(TracedText(path.name, _ids(engine, path, share)))
    return [text for text in texts if text.ids]


def _ids(engine: Engine, path: Path, tokens: int | None) -> list[int]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read() if tokens is None else file.read(tokens * _CHARACTERS_PER_TOKEN)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}.") from error
    ids = engine.tokenizer.encode(text)
    if not ids:
        raise UsageError(f"{path} holds no text; a trace needs at least one token.")
    return ids if tokens is None else ids[:tokens]


def record_trace(engine: Engine, texts: list[TracedText], out: Path, progress: Progress | None = None) -> TraceHeader:
    """Run every text through the engine, from an empty context each time one is full, and write the trace to `out`."""
    progress = progress or Silent()
    windows = [(text.name, window) for text in texts for window in _windows(text.ids, engine.context)]
    header = _header(engine, [Sequence(name=name, tokens=len(window)) for name, window in windows])
    progress.start("trace", header.tokens, "tokens")
    with new_trace(out, header, _record_bytes(engine.manifest)) as writer:
        for _, window in windows:
            for routing in engine.routing(window, header.guesses):
                writer.append(*routing)
                progress.advance(len(routing[0]))
    progress.finish()
    return header


def _windows(ids: list[int], length: int) -> Iterator[list[int]]:
    for first in range(0, len(ids), length):
        yield ids[first : first + length]


def _header(engine: Engine, sequences: list[Sequence]) -> TraceHeader:
    manifest = engine.manifest
    experts = tuple(len(layer.experts) for layer in manifest.experts)
    return TraceHeader(
        artifact_hash=manifest.artifact_hash,
        model_type=manifest.architecture.model_type,
        top_k=engine.top_k,
        guesses=min(2 * engine.top_k, *experts),
        layers=tuple(layer.layer for layer in manifest.experts),
        experts=experts,
        sequences=tuple(sequences),
    )


def _record_bytes(manifest: Manifest) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    most = max(len(layer.experts) for layer in manifest.experts)
    rows = [[expert.bytes for expert in layer.experts] for layer in manifest.experts]
    return np.array([row + [0] * (most - len(row)) for row in rows], np.int64)
