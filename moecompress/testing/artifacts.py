"""Small artifacts of random weights, and ways to damage them, for tests of whatever reads artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.artifact.manifest import MANIFEST, Manifest, behaviour_hash, manifest_text
from moecompress.artifact.priors import Priors
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import CodecSpec, EncodedWeight
from moecompress.codecs.dense import DenseSpec
from moecompress.codecs.table import codec_of
from moecompress.core import values
from moecompress.core.types import PROJECTIONS, Projection

HIDDEN, WIDTH, LAYERS, EXPERTS = 48, 40, 2, 3
ARCHITECTURE = {"model_type": "mixtral", "config": {"hidden_size": HIDDEN, "rms_norm_eps": 1e-5}, "dtype": "bfloat16"}
PROVENANCE = {
    "source_hash": "ab" * 32,
    "recipe": {"version": 1, "passes": []},
    "seed": 7,
    "versions": {"moecompress": "0.1.0"},
    "calibration_hash": None,
    "passes": [],
}
ASSETS: Mapping[str, Path | bytes] = {"tokenizer.json": b'{"version": "1.0"}', "chat_template.jinja": b"{{ messages }}"}


def random_weight(spec: CodecSpec, shape: tuple[int, ...], seed: int) -> EncodedWeight:
    """A weight of `spec` that depends on the seed alone."""
    return codec_of(spec).random(spec, shape, np.random.default_rng(seed))


def random_experts(layer: int) -> list[dict[Projection, EncodedWeight]]:
    """The experts of one layer; every expert has other bits, the last one is dense."""
    shapes: dict[Projection, tuple[int, int]] = {
        "gate": (WIDTH, HIDDEN),
        "up": (WIDTH, HIDDEN),
        "down": (HIDDEN, WIDTH),
    }
    experts = []
    for expert in range(EXPERTS):
        affine = AffineSpec(bits=1 + (layer + 3 * expert) % 8, group_size=32)
        spec: CodecSpec = DenseSpec(dtype="bf16") if expert == EXPERTS - 1 else affine
        seed = 100 * layer + 10 * expert
        experts.append({name: random_weight(spec, shapes[name], seed + i) for i, name in enumerate(PROJECTIONS)})
    return experts


def random_trunk(layer: int | None) -> dict[str, EncodedWeight]:
    """Tensors of one layer, or those outside all layers: matrices, a vector, packed and dense."""
    if layer is None:
        embedding = random_weight(DenseSpec(dtype="bf16"), (50, HIDDEN), 1)
        return {"model.embed_tokens.weight": embedding, "model.norm.weight": random_weight(_F32, (HIDDEN,), 2)}
    prefix = f"model.layers.{layer}"
    attention = random_weight(AffineSpec(bits=8, group_size=64), (HIDDEN, HIDDEN), 3 + layer)
    return {
        f"{prefix}.self_attn.q_proj.weight": attention,
        f"{prefix}.block_sparse_moe.gate.weight": random_weight(_F32, (EXPERTS, HIDDEN), 30 + layer),
        f"{prefix}.input_layernorm.weight": random_weight(DenseSpec(dtype="bf16"), (HIDDEN,), 60 + layer),
    }


_F32 = DenseSpec(dtype="f32")


def random_priors(experts: Sequence[int], seed: int = 0) -> Priors:
    """Priors of layers of so many experts that depend on the seed alone."""
    generator = np.random.default_rng(seed)
    most = max(experts)
    popularity = generator.random((len(experts), most), np.float32)
    pairs = [generator.standard_normal((len(experts), most, most)).astype(np.float16) for _ in range(2)]
    tables: list[npt.NDArray[Any]] = [popularity, *pairs]
    for layer, count in enumerate(experts):
        for table in tables:
            table[layer, ..., count:] = 0
    return Priors(*(table.tobytes() for table in tables))


def put_random_pieces(builder: ArtifactBuilder) -> None:
    """Every piece that is not there yet."""
    if not builder.has("outside"):
        builder.put_trunk("outside", random_trunk(None))
    for layer in range(LAYERS):
        if not builder.has(f"layer-{layer:05d}"):
            builder.put_trunk(f"layer-{layer:05d}", random_trunk(layer))
        if not builder.has(f"experts-{layer:05d}"):
            builder.put_experts(layer, random_experts(layer))


def seal(builder: ArtifactBuilder, out: Path, **changes: Any) -> Manifest:
    """Seal with this module's architecture, provenance and assets, or others."""
    arguments: dict[str, Any] = {"architecture": ARCHITECTURE, "provenance": PROVENANCE, "assets": ASSETS, **changes}
    return builder.seal(out, **arguments)


def random_artifact(work: Path, out: Path) -> Manifest:
    """A sound artifact of two MoE layers at `out`; the same bytes every time."""
    builder = ArtifactBuilder(work)
    put_random_pieces(builder)
    return seal(builder, out)


def rewrite_manifest(folder: Path, edit: Callable[[Any], None], totals: bool = True) -> None:
    """Edit the manifest's plain value as one who can compute its hashes (and, with `totals`, `size.bytes`)."""
    path = folder / MANIFEST
    plain = json.loads(path.read_text())
    edit(plain)
    manifest = _unchecked(plain)
    manifest = replace(manifest, artifact_hash=behaviour_hash(manifest))
    text = manifest_text(manifest)
    for _ in range(4 if totals else 0):  # the total's own digits are part of the total
        others = sum(file.bytes for file in manifest.files.values())
        manifest = replace(manifest, size=replace(manifest.size, bytes=others + len(text)))
        text = manifest_text(manifest)
    path.write_bytes(text)


def _unchecked(plain: Any) -> Manifest:
    return values.read(Manifest, plain)
