"""`priors.safetensors`: how the model was seen to route while it was calibrated. FORMAT.md §5.

popularity [L, E] float32      share of tokens that an expert served
one_layer  [L, E, E] float16   what the choice of expert j one layer earlier adds to the log-odds of expert e: [l, j, e]
two_layer  [L, E, E] float16   the same for two layers earlier

L counts layers with routed experts, E is the most experts of any; where a layer has fewer, the rest is zero. The layers
before the first are the last ones of the token before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moecompress.artifact.container import METADATA, Form, read_typed_header, typed_header
from moecompress.artifact.files import OpenFile
from moecompress.core.errors import ArtifactError

_INFINITE = 0x7C  # exponent bits of a half float's upper byte; all set in infinities and NaNs only


@dataclass(frozen=True, eq=False)
class Priors:
    """The three tables, little endian in C order."""

    popularity: bytes | bytearray
    one_layer: bytes | bytearray
    two_layer: bytes | bytearray


def forms(experts: Sequence[int]) -> dict[str, Form]:
    """Number type and shape of each table for layers of so many experts."""
    layers, most = len(experts), max(experts, default=0)
    pairs = Form("F16", (layers, most, most))
    return {"popularity": Form("F32", (layers, most)), "one_layer": pairs, "two_layer": pairs}


def priors_nbytes(experts: Sequence[int]) -> int:
    """Bytes of the tables in memory."""
    return sum(form.nbytes for form in forms(experts).values())


def priors_file_bytes(experts: Sequence[int]) -> int:
    """Bytes of the file."""
    return len(typed_header(forms(experts).items(), METADATA)) + priors_nbytes(experts)


def pack_priors(priors: Priors, experts: Sequence[int]) -> bytes:
    """The file for layers of so many experts. Raises ArtifactError for tables that do not fit them."""
    _check_values(priors, experts, "priors")
    tables = (priors.popularity, priors.one_layer, priors.two_layer)
    return b"".join([typed_header(forms(experts).items(), METADATA), *tables])


def read_priors(file: OpenFile, experts: Sequence[int]) -> Priors:
    """The tables of a model whose layers have so many experts. Raises ArtifactError for any other file."""
    metadata, tensors = read_typed_header(file)
    if metadata != METADATA:
        raise ArtifactError(f"{file.path}: its metadata is {str(metadata)[:100]}, expected {METADATA}.")
    expected = forms(experts)
    found = {name: form for name, (form, _) in tensors.items()}
    if found != expected:
        name = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))[0]
        raise ArtifactError(
            f"{file.path}: table {name[:80]!r} is {found.get(name)}; this model's {len(experts)} layers of at most "
            f"{max(experts, default=0)} experts need {expected.get(name)}."
        )
    priors = Priors(**{name: file.read(span.offset, span.length) for name, (_, span) in tensors.items()})
    _check_values(priors, experts, str(file.path))
    return priors


def _check_values(priors: Priors, experts: Sequence[int], where: str) -> None:
    for name, form in forms(experts).items():
        size = len(getattr(priors, name))
        if size != form.nbytes:
            raise ArtifactError(f"{where}: table {name!r} has {size} bytes; {form} has {form.nbytes}.")
    if not all(0 <= share <= 1 for share in memoryview(priors.popularity).cast("f")):
        raise ArtifactError(f"{where}: a popularity lies outside 0 to 1.")
    for name in ("one_layer", "two_layer"):
        if any(upper & _INFINITE == _INFINITE for upper in set(getattr(priors, name)[1::2])):
            raise ArtifactError(f"{where}: {name} holds a value that is not finite.")
    for layer, unused in _unused(priors, experts):
        if unused.strip(b"\0"):
            raise ArtifactError(f"{where}: layer {layer} has {experts[layer]} experts, but values for more.")


def _unused(priors: Priors, experts: Sequence[int]) -> Iterator[tuple[int, bytes | bytearray]]:
    """Layer and bytes of every stretch of a row that belongs to no expert."""
    most = max(experts, default=0)
    for layer, count in enumerate(experts):
        if count == most:
            continue
        yield layer, priors.popularity[4 * (layer * most + count) : 4 * (layer + 1) * most]
        for table in (priors.one_layer, priors.two_layer):
            for row in range(layer * most, (layer + 1) * most):
                yield layer, table[2 * (row * most + count) : 2 * (row + 1) * most]
