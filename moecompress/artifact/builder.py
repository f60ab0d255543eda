"""Makes an artifact: pieces are put one by one, in any order and over several runs, then sealed into a folder.

Memory stays at one packed matrix or record beyond what the caller holds. The same pieces give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moecompress.artifact.card import settle
from moecompress.artifact.checks import check_asset_name, check_manifest, is_weight_file
from moecompress.artifact.files import artifact_bytes
from moecompress.artifact.manifest import (
    MANIFEST,
    README,
    TRUNK,
    Architecture,
    ExpertLayer,
    Manifest,
    Provenance,
    Size,
    StoredFile,
    StoredTensor,
    behaviour_hash,
)
from moecompress.artifact.pieces import Piece, PieceFolder
from moecompress.artifact.records import Planned, pack_record
from moecompress.artifact.sizes import experts_file, place_experts, place_trunk
from moecompress.artifact.writing import HashedFile, new_file, new_folder, refuse_existing, write_file
from moecompress.codecs.base import CodecSpec, EncodedWeight
from moecompress.codecs.table import codec_of
from moecompress.core import values
from moecompress.core.errors import ArtifactError
from moecompress.core.hashing import canonical_json
from moecompress.core.types import Projection

__all__ = ["ArtifactBuilder", "artifact_bytes"]


class ArtifactBuilder:
    """Collects pieces in the folder `work`, which may hold those of an earlier, killed process."""

    def __init__(self, work: Path) -> None:
        self._pieces = PieceFolder(work)

    def has(self, piece: str) -> bool:
        """Whether a piece is finished: `experts-00000` for the experts of layer 0, or a name given to `put_trunk`."""
        return self._pieces.has(piece)

    def put_experts(self, layer: int, experts: Sequence[Mapping[Projection, EncodedWeight]]) -> None:
        """Write the experts of one decoder layer, by index, as the piece `experts-<layer>`. Replaces an earlier one."""
        header, table, _ = place_experts(layer, [{p: _planned(w) for p, w in expert.items()} for expert in experts])
        name = experts_file(layer).removesuffix(".safetensors")
        self._pieces.forget(name)
        with new_file(self._pieces.data(name)) as file:
            file.write(header)
            for index, (entry, weights) in enumerate(zip(table.experts, experts, strict=True)):
                file.write(pack_record(layer, index, entry, weights))
        weights_of_all = [weight for expert in experts for weight in expert.values()]
        self._pieces.note(name, Piece(file=file.stored(), codecs=_codecs(weights_of_all), experts=table))

    def put_trunk(self, piece: str, tensors: Mapping[str, EncodedWeight]) -> None:
        """Write tensors outside the experts, under their checkpoint names, as one piece. Replaces an earlier one."""
        header, table, size = place_trunk({name: _planned(weight) for name, weight in tensors.items()})
        self._pieces.forget(piece)
        with new_file(self._pieces.data(piece)) as file:
            file.write(header)
            for name, entry in table.items():
                file.pad_to(entry.offset)
                file.write(codec_of(tensors[name].spec).pack(tensors[name]))
            file.pad_to(size)
        self._pieces.note(piece, Piece(file=file.stored(), codecs=_codecs(tensors.values()), trunk=table))

    def seal(
        self,
        out: Path,
        *,
        architecture: Mapping[str, Any],
        provenance: Mapping[str, Any],
        assets: Mapping[str, Path | bytes],
    ) -> Manifest:
        """Make the artifact at `out` from all pieces. Assets are tokenizer files and the like, by their final names.

        Raises UsageError when `out` exists and ArtifactError for pieces, assets or texts that do not fit; then, as
        after a full disk, nothing is at `out` and every piece is still there.
        """
        refuse_existing(out)
        pieces = {name: self._pieces.read(name) for name in self._pieces.names()}
        for name in assets:
            check_asset_name(name)
        described = _described(architecture, provenance)
        with new_folder(out) as folder:
            layers, files = self._place_experts(pieces, folder)
            trunk, files[TRUNK] = self._merge_trunk(pieces, folder / TRUNK)
            files |= {name: _write_asset(folder / name, asset) for name, asset in assets.items()}
            specs = {key: spec for piece in pieces.values() for key, spec in piece.specs().items()}
            tables = {"trunk": trunk, "experts": layers, "codecs": _plain(specs), "files": dict(sorted(files.items()))}
            manifest, text, card = settle(_totalled({**described, **tables}))
            check_manifest(manifest)
            write_file(folder / README, card)
            write_file(folder / MANIFEST, text)
        return manifest

    def _place_experts(
        self, pieces: Mapping[str, Piece], folder: Path
    ) -> tuple[tuple[ExpertLayer, ...], dict[str, StoredFile]]:
        """Link every expert piece into the folder, or copy it where links are not possible."""
        layers, files = [], {}
        for name, piece in pieces.items():
            if piece.experts is not None:
                _link(self._pieces.data(name), folder / piece.experts.file, piece.file)
                layers.append(piece.experts)
                files[piece.experts.file] = piece.file
        return tuple(layers), files

    def _merge_trunk(self, pieces: Mapping[str, Piece], path: Path) -> tuple[dict[str, StoredTensor], StoredFile]:
        """Copy the tensors of all trunk pieces into one file, in reading order."""
        sources: dict[str, tuple[str, StoredTensor]] = {}
        planned: dict[str, Planned] = {}
        for name, piece in pieces.items():
            specs = piece.specs()
            for tensor, entry in (piece.trunk or {}).items():
                if tensor in sources:
                    raise ArtifactError(f"Tensor {tensor!r} is in the pieces {sources[tensor][0]!r} and {name!r}.")
                sources[tensor] = (name, entry)
                planned[tensor] = (specs[entry.codec], entry.shape)
        header, table, size = place_trunk(planned)
        with HashedFile(path) as file:
            file.write(header)
            for tensor, target in table.items():
                name, entry = sources[tensor]
                file.pad_to(target.offset)
                file.copy(self._pieces.data(name), entry.offset, entry.bytes)
            file.pad_to(size)
        return table, file.stored()


def _planned(weight: EncodedWeight) -> Planned:
    return weight.spec, tuple(weight.shape)


def _codecs(weights: Any) -> dict[str, dict[str, Any]]:
    return _plain({weight.spec.key: weight.spec for weight in weights})


def _plain(specs: Mapping[str, CodecSpec]) -> dict[str, dict[str, Any]]:
    return {key: values.plain(specs[key]) for key in sorted(specs)}


def _described(architecture: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    try:
        canonical_json([dict(architecture), dict(provenance)]).encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"Architecture and provenance must be plain JSON values: {error}.") from error
    return {
        "architecture": _part(Architecture, architecture),
        "provenance": _part(Provenance, provenance),
    }


def _part(kind: type[Any], value: Mapping[str, Any]) -> Any:
    try:
        return values.read(kind, dict(value))
    except values.Mismatch as wrong:
        raise ArtifactError(f"{kind.__name__} of an artifact: {wrong.place} {wrong.words}.") from None


def _totalled(parts: Mapping[str, Any]) -> Manifest:
    """The manifest with the totals of its tables and its hash; README.md and `size.bytes` are still to come."""
    blank = Size(bytes=0, weight_bytes=0, parameters=0, bits_per_weight=0.0)
    draft = Manifest(**parts, size=blank, artifact_hash="0" * 64)
    weight_bytes = sum(file.bytes for name, file in draft.files.items() if is_weight_file(name))
    parameters = sum(tensor.parameters for tensor in draft.tensors())
    if not parameters:
        raise ArtifactError("There is nothing to seal: no piece holds a weight.")
    size = Size(
        bytes=0, weight_bytes=weight_bytes, parameters=parameters, bits_per_weight=8 * weight_bytes / parameters
    )
    return replace(draft, size=size, artifact_hash=behaviour_hash(draft))


def _link(source: Path, target: Path, stored: StoredFile) -> None:
    try:
        os.link(source, target)
    except OSError:
        copied = _write_asset(target, source)
        if copied != stored:
            raise ArtifactError(f"{source} changed after it was written; delete its note and run again.") from None


def _write_asset(path: Path, asset: Path | bytes) -> StoredFile:
    with HashedFile(path) as file:
        if isinstance(asset, bytes):
            file.write(asset)
        else:
            file.copy(asset)
    return file.stored()
