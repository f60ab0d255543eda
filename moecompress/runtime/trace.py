"""A trace: which experts a model chose for each token of some text, in a safetensors file.

chosen       [T, L, K] uint16   experts by descending weight
weights      [T, L, K] float16  how much each counted
guesses      [T, L, G] uint16   what the layer's router ranks first when it is asked one layer early; 65535: not asked
record_bytes [L, E]    int64    size of each expert's record, 0 for one that is not there

T tokens, L layers with routed experts, K experts a token. The header, JSON in `__metadata__`, is a `TraceHeader`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any

import numpy as np
import numpy.typing as npt

from moecompress.artifact import strict_json
from moecompress.artifact.container import DTYPES, Form, Span, read_typed_header, typed_header
from moecompress.artifact.files import ArtifactFolder, OpenFile
from moecompress.artifact.writing import new_file
from moecompress.core import values
from moecompress.core.errors import ArtifactError
from moecompress.core.values import Between, Matches

FORMAT = {"format": "moecompress-trace", "format_version": "1"}

Experts = npt.NDArray[np.uint16]
_Small = Annotated[int, Between(0, 1 << 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Tokens that the model saw as one text: `name` of the text, and how many."""

    name: str
    tokens: Annotated[int, Between(1, 1 << 40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """What was recorded: `layers` are decoder layers, `experts` the number in each."""

    artifact_hash: Annotated[str, Matches("[0-9a-f]{64}")]
    model_type: str
    top_k: Annotated[int, Between(1, 254)]
    guesses: _Small
    layers: tuple[_Small, ...]
    experts: tuple[Annotated[int, Between(1, 0xFFFE)], ...]
    sequences: tuple[Sequence, ...]

    @property
    def tokens(self) -> int:
        """T."""
        return sum(sequence.tokens for sequence in self.sequences)

    @property
    def token_set(self) -> int:
        """Experts that one token needs."""
        return len(self.layers) * self.top_k

    def forms(self) -> dict[str, Form]:
        """Number type and shape of each tensor."""
        tokens, layers = self.tokens, len(self.layers)
        return {
            "chosen": Form("U16", (tokens, layers, self.top_k)),
            "weights": Form("F16", (tokens, layers, self.top_k)),
            "guesses": Form("U16", (tokens, layers, self.guesses)),
            "record_bytes": Form("I64", (layers, max(self.experts, default=0))),
        }


@dataclass(frozen=True, eq=False)
class Trace:
    """A trace in memory."""

    header: TraceHeader
    chosen: Experts
    weights: npt.NDArray[np.float16]
    guesses: Experts
    record_bytes: npt.NDArray[np.int64]


class TraceWriter:
    """Appends tokens; their tensors wait in unnamed files until the trace is put together."""

    def __init__(self, parts: Mapping[str, IO[bytes]]) -> None:
        self._parts = parts

    def append(self, chosen: Experts, weights: npt.NDArray[np.float32], guesses: Experts) -> None:
        """The routing of some tokens in a row, `[n, L, K]`, `[n, L, K]` and `[n, L, G]`."""
        self._parts["chosen"].write(chosen.astype("<u2").tobytes())
        self._parts["weights"].write(weights.astype("<f2").tobytes())
        self._parts["guesses"].write(guesses.astype("<u2").tobytes())


@contextmanager
def new_trace(path: Path, header: TraceHeader, record_bytes: npt.NDArray[np.int64]) -> Iterator[TraceWriter]:
    """A trace that appears at `path`, replacing another, when the block ends and every token was appended."""
    forms = header.forms()
    with TemporaryFile(dir=path.parent) as one, TemporaryFile(dir=path.parent) as two:
        with TemporaryFile(dir=path.parent) as three:
            parts = {"chosen": one, "weights": two, "guesses": three}
            yield TraceWriter(parts)
            metadata = {**FORMAT, "header": json.dumps(values.plain(header), ensure_ascii=False)}
            with new_file(path) as file:
                file.write(typed_header(forms.items(), metadata))
                for name, part in parts.items():
                    if part.tell() != forms[name].nbytes:
                        raise ValueError(f"{part.tell()} bytes of {name} were appended, not {forms[name].nbytes}.")
                    part.seek(0)
                    while block := part.read(1 << 20):
                        file.write(block)
                file.write(record_bytes.astype("<i8").tobytes())


def read_trace(path: Path) -> Trace:
    """The trace at `path`. Raises ArtifactError for anything else, with the reason."""
    with ArtifactFolder(path.parent) as folder, folder.open(path.name) as file:
        metadata, tensors = read_typed_header(file)
        header = _header(metadata, str(path))
        arrays = _arrays(file, header, tensors)
    trace = Trace(header, **arrays)
    _check(trace, str(path))
    return trace


def _header(metadata: dict[str, str], where: str) -> TraceHeader:
    described = dict(metadata)
    text = described.pop("header", "")
    if described != FORMAT:
        raise ArtifactError(
            f"{where} is not a trace that this moecompress reads: its metadata is {str(described)[:100]}, "
            f"expected {FORMAT}. `moecompress trace` writes one."
        )
    try:
        header = values.read(TraceHeader, strict_json.loads(text.encode(), f"{where}: header"))
    except values.Mismatch as wrong:
        place, value = wrong.place or "header", str(wrong.value)[:80]
        raise ArtifactError(f"{where}: {place} {wrong.words}, got {value!r}.") from None
    if len(header.layers) != len(header.experts) or not header.layers:
        raise ArtifactError(f"{where}: {len(header.layers)} layers and {len(header.experts)} numbers of experts.")
    if min(header.experts) < header.top_k:
        raise ArtifactError(f"{where}: a layer of {min(header.experts)} experts cannot give a token {header.top_k}.")
    return header


def _arrays(file: OpenFile, header: TraceHeader, tensors: dict[str, tuple[Form, Span]]) -> dict[str, Any]:
    expected = header.forms()
    found = {name: form for name, (form, _) in tensors.items()}
    if found != expected:
        name = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))[0]
        raise ArtifactError(
            f"{file.path}: tensor {name[:80]!r} is {found.get(name)}; the header needs {expected.get(name)}."
        )
    return {
        name: np.frombuffer(file.read(span.offset, span.length), DTYPES[form.dtype]).reshape(form.shape)
        for name, (form, span) in tensors.items()
    }


def _check(trace: Trace, where: str) -> None:
    counts = np.array(trace.header.experts)
    if (trace.chosen >= counts[:, None]).any():
        raise ArtifactError(f"{where}: a token chose an expert that its layer does not have.")
    ordered = np.sort(trace.chosen, axis=2)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ArtifactError(f"{where}: a token chose an expert twice in one layer.")
    if not np.isfinite(trace.weights).all():
        raise ArtifactError(f"{where}: a weight is not finite.")
    there = np.arange(trace.record_bytes.shape[1]) < counts[:, None]
    if ((trace.record_bytes > 0) != there).any():
        raise ArtifactError(f"{where}: record_bytes must be positive for every expert and 0 where there is none.")
