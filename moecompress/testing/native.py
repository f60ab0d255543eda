"""Artifacts made from tiny transformers models, and the same models holding the weights the artifacts stand for.

Both sides then compute with the same numbers, so what differs is the engine's arithmetic alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.artifact.manifest import PRIORS
from moecompress.artifact.priors import pack_priors
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import dense_weight
from moecompress.codecs.table import codec_of
from moecompress.core.types import PROJECTIONS, Projection
from moecompress.testing.artifacts import random_priors
from moecompress.testing.tiny import tiny_model, write_tokenizer

PROVENANCE = {"source_hash": "ab" * 32, "recipe": {}, "seed": 0, "versions": {}, "calibration_hash": None, "passes": []}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bits:
    """How an artifact is encoded: 0 is dense float32, 16 dense bf16, else affine round-to-nearest.

    Norms, biases and routers stay dense float32.
    """

    experts: int = 0
    trunk: int = 0
    embedding: int = 0
    group: Literal[32, 64, 128] = 32


def encode(values: Floats, bits: int, group: Literal[32, 64, 128]) -> EncodedWeight:
    """A matrix by plain round-to-nearest between each group's smallest and largest value."""
    if bits in (0, 16) or values.ndim == 1:
        return dense_weight(values, "bf16" if bits == 16 else "f32")
    rows, columns = values.shape
    padded = np.full((rows, -(-columns // group) * group), np.nan, np.float32)
    padded[:, :columns] = values
    blocks = padded.reshape(rows, -1, group)
    minimum = np.nanmin(blocks, axis=2).astype(np.float16)
    scale = ((np.nanmax(blocks, axis=2) - minimum) / (2**bits - 1)).astype(np.float16)
    step = np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
    ratio = np.nan_to_num((blocks - minimum.astype(np.float32)[..., None]) / step)
    codes = np.clip(np.rint(ratio), 0, 2**bits - 1).astype(np.uint8).reshape(rows, -1)[:, :columns]
    arrays = {"codes": np.ascontiguousarray(codes), "scale": scale, "minimum": minimum}
    return EncodedWeight(AffineSpec(bits=bits, group_size=group), (rows, columns), arrays)


def decode(weight: EncodedWeight) -> torch.Tensor:
    """What an encoded weight stands for."""
    return torch.from_numpy(np.ascontiguousarray(codec_of(weight.spec).dequantize(weight)))


class Encoder:
    """Encodes the weights of a transformers model in place: what it holds afterwards is what the artifact says."""

    def __init__(self, model: Any, bits: Bits) -> None:
        self.bits = bits
        self.trunk: dict[str, EncodedWeight] = {}
        self.experts: dict[int, list[dict[Projection, EncodedWeight]]] = {}
        with torch.no_grad():
            for index, layer in enumerate(model.model.layers):
                if hasattr(layer.mlp, "experts"):
                    self.experts[index] = self._experts(layer.mlp.experts)
            skipped = set(model.all_tied_weights_keys)
            for name, parameter in model.named_parameters():
                if ".experts." not in name and name not in skipped:
                    self.trunk[name] = self._trunk(name, parameter)

    def _experts(self, module: Any) -> list[dict[Projection, EncodedWeight]]:
        width = module.down_proj.shape[2]
        encoded = []
        for both, down in zip(module.gate_up_proj, module.down_proj, strict=True):
            parts = (both[:width], both[width:], down)
            pairs = zip(PROJECTIONS, parts, strict=True)
            encoded.append({name: self._replace(part, self.bits.experts) for name, part in pairs})
        return encoded

    def _trunk(self, name: str, parameter: torch.Tensor) -> EncodedWeight:
        if "norm" in name or "mlp.gate.weight" in name:
            return self._replace(parameter, 0)
        return self._replace(parameter, self.bits.embedding if "embed" in name else self.bits.trunk)

    def _replace(self, parameter: torch.Tensor, bits: int) -> EncodedWeight:
        weight = encode(parameter.detach().numpy(), bits, self.bits.group)
        parameter.copy_(decode(weight).reshape(parameter.shape))
        return weight


def build_artifact(
    folder: Path, model: Any, bits: Bits = Bits(), *, tokenizer: bool = True, ending: bool = True
) -> Path:
    """Write the artifact of a model to folder / "artifact"; the model then holds the artifact's weights.

    Unless `ending`, no token ends a text.
    """
    encoder = Encoder(model, bits)
    builder = ArtifactBuilder(folder / "work")
    builder.put_trunk("trunk", encoder.trunk)
    for layer, experts in encoder.experts.items():
        builder.put_experts(layer, experts)
    if tokenizer:
        write_tokenizer(folder / "assets", ending=ending)
    config = json.loads(model.config.to_json_string())
    if not ending:
        config["eos_token_id"] = None
    architecture = {"model_type": model.config.model_type, "config": config, "dtype": "float32"}
    assets = {path.name: path for path in (folder / "assets").glob("*")}
    builder.seal(folder / "artifact", architecture=architecture, provenance=PROVENANCE, assets=assets)
    return folder / "artifact"


def tiny_artifact(
    folder: Path, family: str, bits: Bits = Bits(), *, priors: bool = False, **overrides: Any
) -> tuple[Path, Any]:
    """An artifact of a random tiny model and the model itself, with the same weights; `priors` adds random ones."""
    model = tiny_model(family, **overrides)
    if priors:
        experts = [model.config.num_experts] * model.config.num_hidden_layers
        (folder / "assets").mkdir()
        (folder / "assets" / PRIORS).write_bytes(pack_priors(random_priors(experts), experts))
    return build_artifact(folder, model, bits), model


def reference_logits(model: Any, ids: Sequence[int]) -> Floats:
    """What transformers computes, [n, vocabulary]."""
    with torch.inference_mode():
        logits: Floats = model(torch.tensor([list(ids)])).logits[0].float().numpy()
    return logits


def reference_tokens(model: Any, ids: Sequence[int], count: int) -> list[int]:
    """Greedy continuation by transformers, without its stopping rules."""
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(reference_logits(model, tokens)[-1].argmax()))
    return tokens[len(ids) :]
