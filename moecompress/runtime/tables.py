"""The artifact's tables as the core wants them: roles instead of checkpoint names, plain numbers instead of models.

Every tensor of the trunk must have exactly one place in the forward pass; one too many or too few is an ArtifactError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moecompress.artifact.manifest import TRUNK, ExpertLayer, Manifest, StoredExpert, StoredTensor
from moecompress.codecs.base import CodecSpec
from moecompress.core.errors import ArtifactError, UnsupportedModelError
from moecompress.runtime.families.base import Architecture, Family, Layer, family_of, read_architecture

TensorRow = tuple[str, int, int, int, int, int, int]
TrunkRow = tuple[str, str, bool, TensorRow]
ExpertRow = tuple[int, int, TensorRow, TensorRow, TensorRow]
LayerRow = tuple[int, str, list[ExpertRow]]

_NAMES = {
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
}
_BIASES = {f"{letter}_bias": f"self_attn.{letter}_proj.bias" for letter in "qkv"}
_OUTPUT_BIAS = {"o_bias": "self_attn.o_proj.bias"}
_HEAD_NORMS = {"q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight"}
_DENSE = {f"ffn.{part}": f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
_SHARED = {f"shared.{part}": f"mlp.shared_expert.{part}_proj.weight" for part in ("gate", "up", "down")}
_SHARED_ROUTER = {"shared_router": "mlp.shared_expert_gate.weight"}
_VECTORS = ("norm", "bias")
# Buffers that old checkpoints store although they follow from the config.
_DERIVED = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class Tables:
    """Everything the core needs to know about an artifact."""

    architecture: Architecture
    trunk: list[TrunkRow]
    experts: list[LayerRow]


def read_tables(manifest: Manifest) -> Tables:
    """The tables of an artifact. Raises ArtifactError, or UnsupportedModelError for a model or codec not handled."""
    model = manifest.architecture
    return make_tables(model.model_type, model.config, manifest.trunk, manifest.experts, manifest.specs())


def make_tables(
    model_type: str,
    config: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    experts: Sequence[ExpertLayer],
    specs: Mapping[str, CodecSpec],
) -> Tables:
    """The tables of trunk tensors and experts that lie where these say, of an artifact or of one to come."""
    family, architecture = family_of(model_type), read_architecture(model_type, config)
    roles = _roles(family, architecture, model_type, set(stored))
    trunk = [_trunk_row(role, name, stored[name], specs) for name, role in roles.items()]
    return Tables(architecture, trunk, _layer_rows(experts, specs))


def expert_rows(manifest: Manifest) -> list[LayerRow]:
    """The tables of the experts alone, layer by layer. Raises UnsupportedModelError for a codec without kernels."""
    return _layer_rows(manifest.experts, manifest.specs())


def _layer_rows(experts: Sequence[ExpertLayer], specs: Mapping[str, CodecSpec]) -> list[LayerRow]:
    layers = sorted(experts, key=lambda layer: layer.layer)
    return [(layer.layer, layer.file, [_expert_row(expert, specs) for expert in layer.experts]) for layer in layers]


def _roles(family: Family, architecture: Architecture, model_type: str, present: set[str]) -> dict[str, str]:
    """Checkpoint name → role, for every tensor the model needs and no other."""
    roles = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "final_norm"}
    if not architecture.tied:
        roles["lm_head.weight"] = "head"
    for index, layer in enumerate(architecture.layers):
        for role, name in _layer_names(family, architecture, layer, index, present):
            roles[name] = f"layers.{index}.{role}"
    missing = [name for name in roles if name not in present]
    ignored = {name for name in present if name.endswith(_DERIVED) or (architecture.tied and name == "lm_head.weight")}
    unknown = sorted(present - set(roles) - ignored)
    if missing or unknown:
        what = f"lacks the trunk tensor {missing[0]!r}" if missing else f"has a trunk tensor {unknown[0]!r}"
        raise ArtifactError(
            f"The artifact {what}, which does not fit its config.json of model_type "
            f"{model_type!r}. Make it again from an unchanged checkpoint."
        )
    return roles


def _layer_names(
    family: Family, architecture: Architecture, layer: Layer, index: int, present: set[str]
) -> Iterator[tuple[str, str]]:
    names = dict(_NAMES)
    if architecture.attention_bias:
        names |= _BIASES
    if architecture.output_bias:
        names |= _OUTPUT_BIAS
    if architecture.head_norm != "none":
        names |= _HEAD_NORMS
    if not layer.sparse:
        names |= _DENSE
    elif architecture.shared_expert:
        names |= _SHARED | _SHARED_ROUTER
    prefix = f"model.layers.{index}."
    if layer.sparse:
        known = [name for name in family.router_names if prefix + name in present]
        names["router"] = (known or list(family.router_names))[0]
    for role, name in names.items():
        yield role, prefix + name


def _trunk_row(role: str, name: str, entry: StoredTensor, specs: Mapping[str, CodecSpec]) -> TrunkRow:
    vector = role.endswith(_VECTORS)
    if len(entry.shape) != (1 if vector else 2):
        raise ArtifactError(f"The trunk tensor {name!r} has the shape {list(entry.shape)}; {role} cannot have that.")
    return role, TRUNK, vector, _tensor_row(entry, specs)


def _expert_row(expert: StoredExpert, specs: Mapping[str, CodecSpec]) -> ExpertRow:
    if "gate" not in expert.projections:
        raise UnsupportedModelError("The artifact's experts have no gate matrix; the engine runs gated experts only.")
    gate, up, down = (_tensor_row(expert.projections[name], specs) for name in ("gate", "up", "down"))
    return expert.offset, expert.bytes, gate, up, down


def _tensor_row(entry: StoredTensor, specs: Mapping[str, CodecSpec]) -> TensorRow:
    rows, columns = (1, *entry.shape) if len(entry.shape) == 1 else entry.shape
    codec, bits, group = _kernel(specs[entry.codec])
    return codec, bits, group, rows, columns, entry.offset, entry.bytes


def _kernel(spec: Any) -> tuple[str, int, int]:
    """The kernel that reads a codec: its name, bits and group size."""
    if spec.codec == "affine":
        return "affine", spec.bits, spec.group_size
    if spec.codec == "dense":
        return f"dense_{spec.dtype}", 0, 0
    raise UnsupportedModelError(
        f"The engine has no kernel for the codec {spec.key!r}; a newer moecompress may have one."
    )
