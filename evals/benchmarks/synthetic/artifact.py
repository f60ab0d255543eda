"""A synthetic model as our artifact: layer by layer, plain round to nearest, never the whole model in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.artifact.manifest import Manifest
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import dense_weight
from moecompress.core.types import PROJECTIONS, Projection
from synthetic.shapes import Shape
from synthetic.weights import Floats, Weights

Report = Callable[[str], None]


@dataclass(frozen=True)
class Bits:
    """Bits of experts, attention, and head with embedding; 16 is bfloat16. Groups of `group_size` columns."""

    experts: int
    attention: int
    head: int
    group_size: int = 64

    @property
    def name(self) -> str:
        """For example `e4a4h8g64`."""
        return f"e{self.experts}a{self.attention}h{self.head}g{self.group_size}"


def build_artifact(weights: Weights, bits: Bits, out: Path, report: Report = print) -> Path:
    """The artifact at `out`; nothing is done when it is there.

    The experts' files wait beside it in a hidden folder, so that another artifact with the same experts links them.
    Killed and started again, it goes on with the next layer.
    """
    if out.is_dir():
        return out
    shape = weights.shape
    shared = out.parent / f".experts-{shape.name}-{weights.seed}-{bits.experts}g{bits.group_size}"
    experts = ArtifactBuilder(shared)
    for layer in range(shape.layers):
        if not experts.has(f"experts-{layer:05d}"):
            report(f"{out.name}: experts of layer {layer + 1} of {shape.layers}")
            experts.put_experts(layer, encoded_experts(weights, layer, bits))
    work = out.parent / f".{out.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for piece in shared.iterdir():
        os.link(piece, work / piece.name)
    seal(weights, bits, work, out)
    shutil.rmtree(work)
    return out


def seal(weights: Weights, bits: Bits, work: Path, out: Path) -> Manifest:
    """Put the trunk beside the experts of `work`, and make the artifact."""
    shape, builder = weights.shape, ArtifactBuilder(work)
    for name in weights.trunk_shapes():
        builder.put_trunk(piece_name(name), {name: trunk_weight(name, weights.trunk(name), bits)})
    provenance = {
        "source_hash": f"synthetic {shape.name} seed {weights.seed}",
        "recipe": {"synthetic": shape.name, "bits": bits.name},
        "seed": weights.seed,
        "versions": {},
    }
    architecture = {"model_type": "olmoe", "config": shape.config(), "dtype": "bfloat16"}
    assets = {"tokenizer.json": tokenizer_json(shape), "tokenizer_config.json": b"{}"}
    return builder.seal(out, architecture=architecture, provenance=provenance, assets=assets)


def piece_name(tensor: str) -> str:
    """A tensor's name as that of a piece."""
    return tensor.lower().replace(".", "-")


def encoded_experts(weights: Weights, layer: int, bits: Bits) -> list[dict[Projection, EncodedWeight]]:
    """The experts of a layer."""
    return [
        {p: encoded(weights.expert(layer, index, p), bits.experts, bits.group_size) for p in PROJECTIONS}
        for index in range(weights.shape.experts)
    ]


def trunk_weight(name: str, values: Floats, bits: Bits) -> EncodedWeight:
    """A tensor outside the experts: routers stay float32, norms bfloat16."""
    if values.ndim == 1:
        return dense_weight(values)
    if name.endswith(".mlp.gate.weight"):
        return dense_weight(values, "f32")
    return encoded(values, bits.attention if ".self_attn." in name else bits.head, bits.group_size)


def encoded(values: Floats, bits: int, group_size: int) -> EncodedWeight:
    """Round to nearest between each group's extremes; 16 bits is bfloat16. Columns are a multiple of the group size."""
    if bits == 16:
        return dense_weight(values)
    rows, columns = values.shape
    groups = values.reshape(rows, columns // group_size, group_size)
    minimum = groups.min(2).astype(np.float16)
    span = groups.max(2) - minimum
    scale = np.maximum(span / (2**bits - 1), 1e-7).astype(np.float16)
    codes = (groups - minimum.astype(np.float32)[:, :, None]) / scale.astype(np.float32)[:, :, None]
    np.rint(codes, out=codes).clip(0, 2**bits - 1, out=codes)
    arrays = {"codes": codes.astype(np.uint8).reshape(rows, columns), "scale": scale, "minimum": minimum}
    return EncodedWeight(AffineSpec(bits=bits, group_size=group_size), (rows, columns), arrays)


def tokenizer_json(shape: Shape) -> bytes:
    """A byte-level tokenizer: 256 bytes, then words `<n>` that no text gives."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    vocabulary = {alphabet[byte]: byte for byte in range(256)}
    vocabulary |= {f"<{token}>": token for token in range(256, shape.vocabulary)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": False, "fuse_unk": False}
    return json.dumps({"version": "1.0", "pre_tokenizer": level, "decoder": level, "model": model}).encode()


def active_bytes(manifest: Manifest, top_k: int) -> int:
    """Bytes of weights one token touches: `top_k` experts of each layer, the trunk, and one row of the embedding."""
    trunk = sum(tensor.bytes for name, tensor in manifest.trunk.items() if "embed_tokens" not in name)
    records = sum(layer.experts[0].bytes * top_k for layer in manifest.experts)
    return trunk + records
