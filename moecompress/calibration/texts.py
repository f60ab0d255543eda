"""Token sequences from text: chosen by a seed for calibration, in reading order for evaluation.

Calibration: each source's text is cut into pieces of about two sequences, the pieces are put in a seeded order, encoded
until there are enough tokens, joined with the end-of-text token and cut into sequences, without padding.
Evaluation: every document from its beginning, in stretches of 16 Ki characters, joined with the end-of-text token;
windows do not overlap and none spans two paths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moecompress.calibration.corpus import Corpus, heldout_corpus, open_corpora
from moecompress.calibration.options import CalibrationOptions, TextSource
from moecompress.calibration.pieces import Piece, pieces_of, seeded_order, shares
from moecompress.calibration.tokenizer import TextEncoder
from moecompress.core.errors import CalibrationError

if TYPE_CHECKING:
    from moecompress.models.source import TensorSource

Ids = npt.NDArray[np.int32]

_CHARACTERS_PER_TOKEN = 8  # of a piece, per token of a sequence: text has 3 to 5, so a piece is about two sequences
_BATCH = 4
_STRETCH = 1 << 14


@dataclass(frozen=True)
class TokenSet:
    """Sequences of token ids, int32 `[N, S]`; `hash` names exactly these ids, `description` where they are from."""

    ids: Ids
    hash: str
    description: str

    @classmethod
    def of(cls, ids: Ids, description: str) -> TokenSet:
        """The set of `ids`, with its hash: sha256 of the shape and of the ids, little endian, row by row."""
        digest = hashlib.sha256(f"{ids.shape[0]} {ids.shape[1]}\n".encode())
        digest.update(np.ascontiguousarray(ids, dtype="<i4").tobytes())
        return cls(ids, digest.hexdigest(), description)


def calibration_tokens(options: CalibrationOptions, source: TensorSource) -> TokenSet:
    """The sequences that `options` asks for, encoded by the tokenizer in the checkpoint's folder."""
    return pack(options, TextEncoder.open(source.folder, source.config))


def pack(options: CalibrationOptions, encoder: TextEncoder) -> TokenSet:
    """The sequences that `options` asks for, fewer when the text holds fewer (the description says so).

    Raises CalibrationError for text that is missing, unreadable, empty or shorter than one sequence, and for sequences
    longer than the model's context.
    """
    length = options.sequence_length
    encoder.check_length(length, "calibration.sequence_length")
    sources = options.text_sources()
    wanted = shares(options.tokens // length, [source.weight for source in sources])
    parts = [
        _sequences(source, count, length, f"{options.seed}/{position}", encoder)
        for position, (source, count) in enumerate(zip(sources, wanted, strict=True))
        if count
    ]
    ids = np.concatenate(parts)
    ids = ids[seeded_order(len(ids), f"{options.seed}/sequences")]
    return TokenSet.of(ids, _description(options, ids))


def _sequences(source: TextSource, count: int, length: int, seed: str, encoder: TextEncoder) -> Ids:
    with open_corpora(source, encoder.chat) as corpora:
        pieces = [piece for corpus in corpora for piece in pieces_of(corpus, _CHARACTERS_PER_TOKEN * length)]
        order = seeded_order(len(pieces), seed)
        stream = _stream([pieces[i] for i in order], count * length, encoder)
    if len(stream) < length:
        raise CalibrationError(
            f"The calibration text {source.path!r} has {len(stream)} tokens, less than one sequence of {length}. "
            "Give more text, or lower calibration.sequence_length."
        )
    return _cut(stream, length, count)


def _stream(pieces: Sequence[Piece], needed: int | None, encoder: TextEncoder, whole_rows: bool = False) -> Ids:
    """Ids of the pieces up to the batch that has `needed`, a separator after each (or each row, if `whole_rows`)."""
    ids: list[int] = []
    for first in range(0, len(pieces), _BATCH):
        batch = pieces[first : first + _BATCH]
        for piece, row in zip(batch, encoder.encode([piece.text() for piece in batch]), strict=True):
            ids += row
            if row and (piece.ends_row or not whole_rows):
                ids += encoder.separator
        if needed is not None and len(ids) >= needed:
            break
    return np.array(ids, dtype=np.int32)


def _cut(stream: Ids, length: int, limit: int | None) -> Ids:
    whole = len(stream) // length
    count = whole if limit is None else min(limit, whole)
    return stream[: count * length].reshape(count, length)


def _description(options: CalibrationOptions, ids: Ids) -> str:
    names = ", ".join(source.path for source in options.text_sources())
    text = f"{len(ids)} sequences of {ids.shape[1]} tokens from {names}, seed {options.seed}"
    asked = options.tokens // options.sequence_length
    return text if len(ids) == asked else f"{text} ({asked} sequences were asked for; the text holds no more)"


def evaluation_windows(paths: Sequence[Path], folder: Path, window: int, limit: int | None = None) -> list[Ids]:
    """Windows `[window]` of the files or folders `paths` (none: the builtin held-out text), at most `limit` in all.

    `folder` holds the tokenizer, and usually the model. The limit is shared evenly by the paths; what one cannot fill
    goes to those after it. Raises CalibrationError for text that is missing, empty or shorter than one window, and for
    windows longer than the model's context.
    """
    config = folder / "config.json"
    encoder = TextEncoder.open(folder, json.loads(config.read_text()) if config.is_file() else {})
    encoder.check_length(window, "window")
    windows: list[Ids] = [] if paths else _heldout_windows(encoder, window, limit)
    for position, path in enumerate(paths):
        share = None if limit is None else -(-(limit - len(windows)) // (len(paths) - position))
        windows += _path_windows(path, encoder, window, share)
    if not windows:
        names = ", ".join(map(str, paths)) or "builtin"
        raise CalibrationError(
            f"The evaluation text ({names}) is shorter than one window of {window} tokens. Give more text."
        )
    return windows


def _heldout_windows(encoder: TextEncoder, window: int, limit: int | None) -> list[Ids]:
    """Documents in a fixed mixed order, so that a few windows already are a fair sample."""
    corpus = heldout_corpus()
    return _corpus_windows(corpus, seeded_order(len(corpus.lengths), "heldout"), encoder, window, limit)


def _path_windows(path: Path, encoder: TextEncoder, window: int, limit: int | None) -> list[Ids]:
    windows: list[Ids] = []
    with open_corpora(TextSource(path=str(path)), encoder.chat) as corpora:
        for corpus in corpora:
            left = None if limit is None else limit - len(windows)
            windows += _corpus_windows(corpus, None, encoder, window, left)
    return windows


def _corpus_windows(
    corpus: Corpus, rows: Sequence[int] | None, encoder: TextEncoder, window: int, limit: int | None
) -> list[Ids]:
    needed = None if limit is None else limit * window
    pieces = list(pieces_of(corpus, _STRETCH, rows))
    return list(_cut(_stream(pieces, needed, encoder, whole_rows=True), window, limit))
