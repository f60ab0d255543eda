"""Artifacts of tiny checkpoints, and the same checkpoints holding the weights that the artifacts stand for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import dense_weight
from moecompress.codecs.table import codec_of
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource

PROVENANCE = {"source_hash": "ab" * 32, "recipe": {}, "seed": 0, "versions": {}}
PARTS = ("gate", "up", "down")


@dataclass(frozen=True)
class Case:
    """An artifact, the checkpoint folder with its dequantised weights, and a model loaded from that."""

    artifact: Path
    folder: Path
    reference: Any


def rounded(values: torch.Tensor, bits: int, group: int = 32) -> EncodedWeight:
    """A matrix by round-to-nearest between each group's smallest and largest value; its columns fill whole groups."""
    blocks = values.float().numpy().reshape(len(values), -1, group)
    low = blocks.min(2).astype(np.float16)
    scale = ((blocks.max(2) - low) / (2**bits - 1)).astype(np.float16)
    codes = np.rint((blocks - low[..., None].astype(np.float32)) / scale[..., None].astype(np.float32))
    arrays = {
        "codes": codes.clip(0, 2**bits - 1).astype(np.uint8).reshape(values.shape),
        "scale": scale,
        "minimum": low,
    }
    return EncodedWeight(AffineSpec(bits=bits, group_size=group), tuple(values.shape), arrays)


def dense(values: torch.Tensor) -> EncodedWeight:
    return dense_weight(values.float().numpy(), "f32")


def decoded(weight: EncodedWeight) -> torch.Tensor:
    return torch.from_numpy(codec_of(weight.spec).dequantize(weight)).reshape(weight.shape)


def encode_checkpoint(folder: Path, bits: int) -> dict[str, EncodedWeight]:
    """Every tensor of a checkpoint of per-expert matrices by name: experts with `bits` (0: dense), attention with 8."""
    encoded = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".experts." in name and bits:
            encoded[name] = rounded(tensor, bits)
        elif "self_attn" in name and tensor.ndim == 2:
            encoded[name] = rounded(tensor, 8, 64)
        else:
            encoded[name] = dense(tensor)
    return encoded


def write_artifact(out: Path, folder: Path, encoded: dict[str, EncodedWeight], assets: dict[str, Any]) -> Path:
    source = TensorSource.open(folder)
    layout = discover(source)
    builder = ArtifactBuilder(out.parent / "work")
    builder.put_trunk("trunk", {tensor.name: encoded[tensor.name] for tensor in layout.trunk})
    for index, layer in layout.moe.items():
        experts = range(layer.experts)
        names = [{p: layer.layout.names[p].replace("{e}", str(e)) for p in PARTS} for e in experts]
        builder.put_experts(index, [{p: encoded[name] for p, name in row.items()} for row in names])
    architecture = {"model_type": layout.model_type, "config": source.config, "dtype": "bfloat16"}
    assets = {**{name: path for name, path in source.assets.items() if name.endswith((".json", ".jinja"))}, **assets}
    builder.seal(out, architecture=architecture, provenance=PROVENANCE, assets=assets)
    return out


@pytest.fixture(scope="session")
def case(tiny, tmp_path_factory):
    """case(family, bits, generation={...}, **config) → a Case, made once for the same arguments."""
    made = {}

    def make(family: str, bits: int = 4, generation: dict[str, Any] | None = None, **config: Any) -> Case:
        key = repr((family, bits, generation, sorted(config.items())))
        if key not in made:
            root = tmp_path_factory.mktemp(f"bridge-{family}")
            folder = Path(shutil.copytree(tiny(family, **config), root / "checkpoint"))
            encoded = encode_checkpoint(folder, bits)
            assets = {"generation_config.json": json.dumps(generation).encode()} if generation else {}
            artifact = write_artifact(root / "artifact", folder, encoded, assets)
            weights = {name: decoded(weight) for name, weight in encoded.items()}
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            reference = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, experts_implementation="eager"
            )
            made[key] = Case(artifact, folder, reference)
        return made[key]

    return make


@pytest.fixture
def ids():
    """ids(rows, tokens) → random token ids."""

    def make(rows: int = 2, tokens: int = 20, seed: int = 0) -> torch.Tensor:
        return torch.randint(0, 250, (rows, tokens), generator=torch.Generator().manual_seed(seed))

    return make
