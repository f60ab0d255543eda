"""What must be true of a manifest before any of its numbers is used: names, sizes, alignment, overlap, totals.

Sizes are Python integers, so nothing wraps; every one is held against the file it points into before memory is taken.
All findings are ArtifactError and name the table entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from moecompress.artifact.container import LINE, PAGE, aligned
from moecompress.artifact.files import ArtifactFolder, OpenFile
from moecompress.artifact.manifest import (
    MANIFEST,
    PRIORS,
    README,
    TRUNK,
    ExpertLayer,
    Manifest,
    StoredExpert,
    StoredTensor,
)
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import nbytes
from moecompress.core.errors import ArtifactError, IntegrityError
from moecompress.core.types import Projection

Specs = Mapping[str, CodecSpec]

_EXPERTS = re.compile(r"experts-[0-9]{5}\.safetensors")
_ASSET = re.compile(
    r"(?!.*\.\.)(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,120}\.(?:json|jinja|txt|model|tiktoken|md)|(?:LICENSE|NOTICE)[A-Za-z0-9_.-]{0,60})"
)
_LAST_LAYER = 99_999  # a file's name has five digits for it
_PROJECTION_SETS: tuple[set[Projection], ...] = ({"gate", "up", "down"}, {"up", "down"})


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights: the trunk or the experts of a layer."""
    return name == TRUNK or _EXPERTS.fullmatch(name) is not None


def check_asset_name(name: str) -> None:
    """Raise ArtifactError unless `name` may be that of a tokenizer file, template, licence or the priors."""
    if name != PRIORS and (name in (MANIFEST, README) or not _ASSET.fullmatch(name)):
        raise ArtifactError(
            f"An artifact cannot hold a file named {name[:200]!r}. Allowed are plain names of letters, digits, "
            "'_', '.' and '-' that end in .json, .jinja, .txt, .model, .tiktoken or .md, and LICENSE or NOTICE."
        )


def check_tensor_name(name: str) -> None:
    """Raise ArtifactError unless `name` is printable, at most 512 characters, and not reserved by safetensors."""
    if not 0 < len(name) <= 512 or not name.isprintable() or name == "__metadata__":
        raise ArtifactError(f"{name[:200]!r} cannot be a tensor's name: 1 to 512 printable characters are allowed.")


def check_manifest(manifest: Manifest) -> None:
    """Every check that needs no file but the manifest."""
    specs = manifest.specs()
    check_file_names(manifest)
    check_trunk(manifest, specs)
    for layer in manifest.experts:
        check_layer(layer, manifest.files[layer.file].bytes, specs)
    check_totals(manifest)


def check_file_names(manifest: Manifest) -> None:
    """The files are the trunk, exactly the expert files of the table, README.md and assets."""
    layers = [layer.layer for layer in manifest.experts]
    if layers != sorted(set(layers)):
        raise ArtifactError(f"{MANIFEST}: expert layers must be in ascending order, each once: {layers[:64]}.")
    for layer in manifest.experts:
        if layer.layer > _LAST_LAYER or layer.file != f"experts-{layer.layer:05d}.safetensors":
            raise ArtifactError(f"{MANIFEST}: the experts of layer {layer.layer} cannot be in {layer.file[:200]!r}.")
    expected = {TRUNK, README, *[layer.file for layer in manifest.experts]}
    missing = sorted(expected - set(manifest.files))
    if missing:
        raise ArtifactError(f"{MANIFEST}: `files` lacks {missing[0]!r}.")
    for name in set(manifest.files) - expected:
        check_asset_name(name)


def check_trunk(manifest: Manifest, specs: Specs) -> None:
    """Trunk tensors have allowed names, exact sizes and aligned, separate places inside their file."""
    for name, tensor in manifest.trunk.items():
        check_tensor_name(name)
        _check_tensor(tensor, specs, f"trunk tensor {name!r}")
    spans = [(tensor.offset, aligned(tensor.bytes, LINE), name) for name, tensor in manifest.trunk.items()]
    _check_spans(spans, PAGE, manifest.files[TRUNK].bytes, TRUNK)


def check_layer(layer: ExpertLayer, file_bytes: int, specs: Specs) -> None:
    """Records are page-aligned and separate; the matrices inside each fit one another and their record."""
    spans = [(record.offset, record.bytes, f"expert {index}") for index, record in enumerate(layer.experts)]
    for index, record in enumerate(layer.experts):
        where = f"{layer.file}: expert {index}"
        if record.offset % PAGE or record.bytes % PAGE or record.bytes == 0:
            raise ArtifactError(
                f"{where}: its record of {record.bytes} bytes at byte {record.offset} is not on multiples of {PAGE}."
            )
        check_record(record, specs, where)
    _check_spans(spans, PAGE, file_bytes, layer.file)
    hidden = {record.projections["down"].shape[0] for record in layer.experts}
    if len(hidden) > 1:
        raise ArtifactError(f"{layer.file}: experts disagree about the hidden size: {sorted(hidden)[:8]}.")


def check_record(record: StoredExpert, specs: Specs, where: str) -> None:
    """One expert's matrices: which there are, their sizes, places and shapes."""
    if set(record.projections) not in _PROJECTION_SETS:
        found = sorted(record.projections)
        raise ArtifactError(f"{where} has the matrices {found}; expected gate, up and down, or up and down.")
    for name, tensor in record.projections.items():
        _check_tensor(tensor, specs, f"{where}, {name}")
        if len(tensor.shape) != 2:
            raise ArtifactError(f"{where}, {name}: shape {list(tensor.shape)} is not that of a matrix.")
    width, hidden = record.projections["up"].shape
    expected = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    for name, tensor in record.projections.items():
        if tensor.shape != expected[name]:
            raise ArtifactError(f"{where}, {name}: shape {list(tensor.shape)}, expected {list(expected[name])}.")
    spans = [(tensor.offset, tensor.bytes, name) for name, tensor in record.projections.items()]
    _check_spans(spans, LINE, record.bytes, where)


def check_totals(manifest: Manifest) -> None:
    """`size` is what the tables add up to (its `bytes` is held against the files by `check_files`)."""
    size = manifest.size
    weight_bytes = sum(file.bytes for name, file in manifest.files.items() if is_weight_file(name))
    parameters = sum(tensor.parameters for tensor in manifest.tensors())
    if not parameters:
        raise ArtifactError(f"{MANIFEST}: the artifact holds no weights.")
    found = (size.weight_bytes, size.parameters, size.bits_per_weight)
    expected = (weight_bytes, parameters, 8 * weight_bytes / parameters)
    if found != expected:
        raise ArtifactError(
            f"{MANIFEST}: size says {found[0]} bytes of weights, {found[1]} parameters, {found[2]} bits a weight; "
            f"the tables give {expected[0]}, {expected[1]}, {expected[2]}."
        )


def check_files(manifest: Manifest, folder: ArtifactFolder, manifest_bytes: int) -> dict[str, OpenFile]:
    """Every file but README.md (which people edit), held open, its size the promised one."""
    total = manifest_bytes + sum(file.bytes for file in manifest.files.values())
    if manifest.size.bytes != total:
        raise ArtifactError(f"{MANIFEST}: size.bytes is {manifest.size.bytes}, the files add up to {total}.")
    folder.names()
    opened: dict[str, OpenFile] = {}
    try:
        for name in sorted(set(manifest.files) - {README}):
            opened[name] = folder.open(name)
            check_size(opened[name], manifest)
    except BaseException:
        for file in opened.values():
            file.close()
        raise
    return opened


def check_size(file: OpenFile, manifest: Manifest) -> None:
    """Raise IntegrityError unless an open file has the size that the manifest gives."""
    expected = manifest.files[file.name].bytes
    if file.size != expected:
        raise IntegrityError(
            f"{file.path} has {file.size} bytes, the manifest promises {expected}. "
            "It was truncated or replaced; copy it again."
        )


def _check_tensor(tensor: StoredTensor, specs: Specs, where: str) -> None:
    if tensor.codec not in specs:
        raise ArtifactError(f"{MANIFEST}: {where} has codec {tensor.codec[:80]!r}, which `codecs` does not list.")
    expected = nbytes(specs[tensor.codec], tensor.shape)
    if tensor.bytes != expected:
        shape = list(tensor.shape)
        raise ArtifactError(
            f"{MANIFEST}: {where} of shape {shape} has {tensor.bytes} bytes; {tensor.codec} gives {expected}."
        )
    if tensor.offset % LINE:
        raise ArtifactError(f"{MANIFEST}: {where} is at byte {tensor.offset}, which is not a multiple of {LINE}.")


def _check_spans(spans: Iterable[tuple[int, int, str]], start: int, end: int, where: str) -> None:
    """Raise ArtifactError unless the (offset, bytes, name) lie between `start` and `end` without overlap."""
    position, before = start, "the header"
    for offset, length, name in sorted(spans):
        if offset < position:
            raise ArtifactError(f"{where}: {name} at byte {offset} overlaps {before}, which ends at byte {position}.")
        position, before = offset + length, name
    if position > end:
        raise ArtifactError(f"{where}: {before} ends at byte {position}, but there are only {end} bytes.")
