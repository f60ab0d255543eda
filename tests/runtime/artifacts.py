"""Artifacts made from tiny transformers models, and the same models holding the weights the artifacts stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import CodecSpec, EncodedWeight
from moecompress.codecs.dense import dense_weight
from moecompress.codecs.table import codec_of
from moecompress.testing.tiny import write_tokenizer

PROVENANCE = {
    "source_hash": "ab" * 32,
    "recipe": {},
    "seed": 0,
    "versions": {},
    "calibration_hash": None,
    "passes": [],
}


@dataclass(frozen=True)
class Bits:
    """How an artifact is encoded: 0 is dense float32, 16 dense bf16, else affine round-to-nearest."""

    experts: int = 0
    trunk: int = 0
    group: int = 32

    def spec(self, bits: int) -> CodecSpec:
        return AffineSpec(bits=bits, group_size=self.group)


def encode(values: np.ndarray, bits: int, group: int) -> EncodedWeight:
    """A matrix by plain round-to-nearest between each group's smallest and largest value."""
    if bits in (0, 16) or values.ndim == 1:
        return dense_weight(values, "bf16" if bits == 16 else "f32")
    rows, columns = values.shape
    groups = -(-columns // group)
    padded = np.full((rows, groups * group), np.nan, np.float32)
    padded[:, :columns] = values
    blocks = padded.reshape(rows, groups, group)
    minimum = np.nanmin(blocks, axis=2).astype(np.float16)
    scale = ((np.nanmax(blocks, axis=2) - minimum.astype(np.float32)) / (2**bits - 1)).astype(np.float16)
    step = np.where(scale > 0, scale.astype(np.float32), 1)[..., None]
    codes = np.clip(np.rint((blocks - minimum.astype(np.float32)[..., None]) / step), 0, 2**bits - 1)
    codes = np.nan_to_num(codes).astype(np.uint8).reshape(rows, -1)[:, :columns]
    arrays = {"codes": np.ascontiguousarray(codes), "scale": scale, "minimum": minimum}
    return EncodedWeight(AffineSpec(bits=bits, group_size=group), (rows, columns), arrays)


def decode(weight: EncodedWeight) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(codec_of(weight.spec).dequantize(weight)))


class Encoder:
    """Encodes the weights of a transformers model in place: what it holds afterwards is what the artifact says."""

    def __init__(self, model: Any, bits: Bits) -> None:
        self.bits = bits
        self.trunk: dict[str, EncodedWeight] = {}
        self.experts: dict[int, list[dict[str, EncodedWeight]]] = {}
        with torch.no_grad():
            for index, layer in enumerate(model.model.layers):
                if hasattr(layer.mlp, "experts"):
                    self.experts[index] = self._experts(layer.mlp.experts)
            skipped = set(model.all_tied_weights_keys)
            for name, parameter in model.named_parameters():
                if ".experts." not in name and name not in skipped:
                    self.trunk[name] = self._trunk(name, parameter)

    def _experts(self, module: Any) -> list[dict[str, EncodedWeight]]:
        width = module.down_proj.shape[2]
        encoded = []
        for expert in range(len(module.gate_up_proj)):
            parts = {
                "gate": module.gate_up_proj[expert, :width],
                "up": module.gate_up_proj[expert, width:],
                "down": module.down_proj[expert],
            }
            encoded.append({name: self._replace(part, self.bits.experts) for name, part in parts.items()})
        return encoded

    def _trunk(self, name: str, parameter: torch.Tensor) -> EncodedWeight:
        protected = "norm" in name or "mlp.gate.weight" in name or "embed" in name
        return self._replace(parameter, 0 if protected else self.bits.trunk)

    def _replace(self, parameter: torch.Tensor, bits: int) -> EncodedWeight:
        weight = encode(parameter.detach().numpy(), bits, self.bits.group)
        parameter.copy_(decode(weight).reshape(parameter.shape))
        return weight


def build_artifact(folder: Path, model: Any, bits: Bits, *, names: Mapping[str, str] | None = None) -> Path:
    """Write the artifact of a model to folder / "artifact"; the model then holds the artifact's weights."""
    encoder = Encoder(model, bits)
    builder = ArtifactBuilder(folder / "work")
    builder.put_trunk("trunk", encoder.trunk)
    for layer, experts in encoder.experts.items():
        builder.put_experts(layer, experts)
    write_tokenizer(folder / "assets")
    architecture = {
        "model_type": model.config.model_type,
        "config": model.config.to_diff_dict(),
        "dtype": "float32",
    }
    assets = {path.name: path for path in (folder / "assets").iterdir()}
    out = folder / "artifact"
    builder.seal(out, architecture=architecture, provenance=PROVENANCE, assets=assets)
    return out


def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    """What transformers computes, [n, vocabulary]."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def reference_text(model: Any, ids: list[int], count: int) -> list[int]:
    """Greedy continuation by transformers, without its stopping rules."""
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(reference_logits(model, tokens)[-1].argmax()))
    return tokens[len(ids) :]


__all__ = ["AutoModelForCausalLM", "Bits", "build_artifact", "reference_logits", "reference_text"]
