"""`manifest.json`: what an artifact is made of, where every weight lies, and what was measured. FORMAT.md §6.

Two hashes guard it. `artifact_hash` names what determines behaviour, so it is the same however often a run was killed
and resumed, and does not change when an evaluation is attached. `checksum` covers every byte of the file itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Any

from moecompress.artifact import strict_json
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import parse_spec
from moecompress.core import values
from moecompress.core.errors import ArtifactError, IntegrityError
from moecompress.core.hashing import canonical_json, fingerprint, sha256_bytes
from moecompress.core.types import Projection
from moecompress.core.values import Between, Matches

FORMAT = "moecompress"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
README = "README.md"
TRUNK = "trunk.safetensors"
PRIORS = "priors.safetensors"
MAX_MANIFEST = 64 << 20

_NO_DIGEST = "0" * 64

Count = Annotated[int, Between(0, 2**63 - 1)]
Digest = Annotated[str, Matches("[0-9a-f]{64}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A packed tensor: a key of `codecs`, its shape, and `bytes` at `offset` of the file, or of its record."""

    codec: str
    shape: tuple[Count, ...]
    offset: Count
    bytes: Count

    @property
    def parameters(self) -> int:
        """How many weights it stands for."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExpert:
    """One record: `bytes` at `offset` of its layer's file, and the matrices inside."""

    offset: Count
    bytes: Count
    projections: dict[Projection, StoredTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLayer:
    """The experts of decoder layer `layer`, by index, all in `file`."""

    layer: Count
    file: str
    experts: tuple[StoredExpert, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The model: its transformers type, its config.json, and the number type of the checkpoint."""

    model_type: str
    config: dict[str, Any]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the artifact comes from; enough to make it again."""

    source_hash: str
    recipe: dict[str, Any]
    seed: int
    versions: dict[str, str]
    calibration_hash: str | None = None
    passes: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """Size and hash of a file."""

    bytes: Count
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`bytes`: all files of the folder, manifest and README.md included. `weight_bytes`: trunk and expert files.

    `bits_per_weight` is 8 · weight_bytes / parameters: headers, scales and alignment are in it.
    """

    bytes: Count
    weight_bytes: Count
    parameters: Count
    bits_per_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole manifest."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    architecture: Architecture
    codecs: dict[str, dict[str, Any]]
    trunk: dict[str, StoredTensor]
    experts: tuple[ExpertLayer, ...]
    provenance: Provenance
    evaluation: dict[str, Any] | None = None
    files: dict[str, StoredFile]
    size: Size
    artifact_hash: Digest
    checksum: Digest = _NO_DIGEST

    def specs(self) -> dict[str, CodecSpec]:
        """Codec key → spec. Raises ArtifactError for an unknown codec, or a key that is not the spec's own."""
        specs = {key: parse_spec(value) for key, value in self.codecs.items()}
        for key, spec in specs.items():
            if spec.key != key:
                raise ArtifactError(f"{MANIFEST}: codec {key!r} has the parameters of {spec.key!r}.")
        return specs

    def tensors(self) -> list[StoredTensor]:
        """Every packed tensor, trunk first."""
        experts = [expert for layer in self.experts for expert in layer.experts]
        return [*self.trunk.values(), *[tensor for expert in experts for tensor in expert.projections.values()]]


def behaviour_hash(manifest: Manifest) -> str:
    """sha256 over all that determines behaviour, and nothing else: no provenance, no evaluation, no README.md."""
    keys = ("format", "format_version", "architecture", "codecs", "trunk", "experts")
    files = {name: file.sha256 for name, file in manifest.files.items() if name != README}
    return fingerprint({**{key: values.plain(getattr(manifest, key)) for key in keys}, "files": files})


def manifest_text(manifest: Manifest, length: int | None = None) -> bytes:
    """The file's bytes with their checksum: a top-level key a line, spaces up to `length` bytes, a newline."""
    plain = values.plain(manifest)
    lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in {**plain, "checksum": _NO_DIGEST}.items()]
    blank = ("{\n" + ",\n".join(lines) + "\n}").encode().ljust((length or 0) - 1) + b"\n"
    head, tail = blank.rsplit(_NO_DIGEST.encode(), 1)
    return head + sha256_bytes(blank).encode() + tail


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ArtifactError(f"A manifest holds JSON only, without NaN or infinities: {str(value)[:200]}.") from error


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest written as `data`, its version and types checked, its hashes not. Raises ArtifactError."""
    plain = strict_json.loads(data, where)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ArtifactError(f"{where} is not the manifest of a moecompress artifact: format must be {FORMAT!r}.")
    version = plain.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArtifactError(
            f"{where} has format_version {str(version)[:40]}; this moecompress reads version {FORMAT_VERSION}. "
            "Install a newer moecompress, or make the artifact again."
        )
    try:
        return values.read(Manifest, plain)
    except values.Mismatch as wrong:
        raise ArtifactError(f"{where}: {wrong.place[:200]} {wrong.words}, got {str(wrong.value)[:80]!r}.") from None


def check_hashes(manifest: Manifest, data: bytes, where: str) -> None:
    """Raise IntegrityError unless `data` is what was written and `artifact_hash` is that of the tables."""
    head, found, tail = data.rpartition(manifest.checksum.encode())
    if not found or hashlib.sha256(head + _NO_DIGEST.encode() + tail).hexdigest() != manifest.checksum:
        raise IntegrityError(f"{where} was changed after it was written: its checksum does not match. Make it again.")
    if behaviour_hash(manifest) != manifest.artifact_hash:
        raise IntegrityError(f"{where}: artifact_hash does not match the tables. Make the artifact again.")


def canonical_evaluation(evaluation: Any) -> dict[str, Any]:
    """`evaluation` as plain JSON values. Raises ArtifactError when it is not a mapping of such, without NaN."""
    try:
        plain = json.loads(canonical_json(evaluation).encode())
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"An evaluation must be plain JSON values without NaN or infinities: {error}.") from error
    if not isinstance(plain, dict):
        raise ArtifactError(f"An evaluation must be a mapping of names to figures, not {type(evaluation).__name__}.")
    return plain
