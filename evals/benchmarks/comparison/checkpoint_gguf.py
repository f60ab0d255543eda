"""A Mixtral checkpoint as a GGUF file in bfloat16, tensor by tensor.

llama.cpp rotates neighbouring pairs of a head where transformers rotates halves, so the rows of the query and key
projections are put in its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moecompress.core.types import PROJECTIONS, MoeLayer, Projection
from moecompress.models.discover import ModelLayout, discover
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from synthetic.gguf_file import Tensor, bfloat16, float32, write

Floats = npt.NDArray[np.float32]

OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
}  # fmt: skip


def convert(folder: Path, out: Path) -> Path:
    """The checkpoint in `folder` at `out`. Raises SourceError for a folder that is none, ValueError for no Mixtral."""
    source = TensorSource.open(folder)
    if source.config["model_type"] != "mixtral":
        raise ValueError(f"{folder} holds a {source.config['model_type']} model; only mixtral is converted.")
    try:
        layout = discover(source)
        return write(out, "llama", fields(source.config), _tensors(source, layout))
    finally:
        source.close()


def fields(config: dict[str, Any]) -> dict[str, int | float | str]:
    """The metadata of the architecture `llama` with experts."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    return {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head, "attention.value_length": head, "rope.dimension_count": head,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]), "rope.freq_base": float(rope["rope_theta"]),
        "expert_count": config["num_local_experts"], "expert_used_count": config["num_experts_per_tok"],
        "vocab_size": config["vocab_size"],
    }  # fmt: skip


def paired_rows(values: Floats, heads: int) -> Floats:
    """Rows `[heads · size, in]` of each head from halves (0, 1, …, n/2, …) to pairs (0, n/2, 1, n/2 + 1, …)."""
    rows, columns = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def _tensors(source: TensorSource, layout: ModelLayout) -> Iterator[Tensor]:
    for layer in [None, *range(source.config["num_hidden_layers"])]:
        for tensor in layout.layer_trunk(layer):
            yield _trunk(source, tensor.name, layer)
    for index, layer in sorted(layout.moe.items()):
        for projection in PROJECTIONS:
            shape = (layer.experts, *layer.projection_shape(projection))
            name = f"blk.{index}.ffn_{projection}_exps.weight"
            yield bfloat16(name, shape, partial(_experts, source, layer, projection))


def _trunk(source: TensorSource, name: str, layer: int | None) -> Tensor:
    stem, shape = name.removesuffix(".weight"), source.shape(name)
    target = OUTSIDE[stem] if layer is None else LAYER[stem.removeprefix(f"model.layers.{layer}.")]
    full = f"{target}.weight" if layer is None else f"blk.{layer}.{target}.weight"
    small = len(shape) == 1 or target == "ffn_gate_inp"
    return (float32 if small else bfloat16)(full, shape, partial(_values, source, name, target))


def _values(source: TensorSource, name: str, target: str) -> Floats:
    values = _plain(source.read(name))
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    return paired_rows(values, source.config[heads[target]]) if target in heads else values


def _experts(source: TensorSource, layer: MoeLayer, projection: Projection) -> Floats:
    return np.stack([_plain(read_expert(source, layer, index)[projection]) for index in range(layer.experts)])


def _plain(tensor: torch.Tensor) -> Floats:
    values: Floats = tensor.float().numpy()
    return values
