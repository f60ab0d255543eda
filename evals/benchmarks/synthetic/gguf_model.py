"""A synthetic model as a GGUF file for llama.cpp: bfloat16 to be quantized by it, or a low-bit mix of random blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from moecompress.core.types import PROJECTIONS, Projection
from synthetic.blocks import random_blocks
from synthetic.gguf_file import Tensor, Type, bfloat16, float32, write
from synthetic.shapes import Shape
from synthetic.weights import EMBEDDING, Floats, Weights

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.gate",
}  # fmt: skip

SMALL = ("ffn_gate_inp",)  # routers, kept in float32 as llama.cpp keeps them

Mix = Callable[[str, int], Type]
"""llama.cpp's name of a tensor without its layer, and the layer, to a type."""


def iq3_xxs(name: str, layer: int) -> Type:
    """What llama.cpp makes of an OLMoE as IQ3_XXS with an importance matrix; the embedding aside."""
    types = {"output": Type.Q5_K, "attn_q": Type.IQ2_S, "attn_k": Type.IQ2_S, "attn_output": Type.IQ3_S}
    return types.get(name, Type.IQ3_XXS)


def iq2_xs(name: str, layer: int) -> Type:
    """What llama.cpp makes of an OLMoE of 16 layers as IQ2_XS with an importance matrix; the embedding aside."""
    early = {"ffn_down_exps": Type.Q2_K} if layer < 2 else {}
    return {"output": Type.Q5_K, "attn_v": Type.Q4_K, **early}.get(name, Type.IQ2_XS)


MIXES: dict[str, Mix] = {"IQ3_XXS": iq3_xxs, "IQ2_XS": iq2_xs}


def fields(shape: Shape) -> dict[str, int | float | str]:
    """The metadata of the architecture `olmoe`."""
    return {
        "context_length": shape.context, "embedding_length": shape.hidden, "block_count": shape.layers,
        "feed_forward_length": shape.width, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.heads, "attention.layer_norm_rms_epsilon": 1e-5,
        "expert_count": shape.experts, "expert_used_count": shape.top_k, "vocab_size": shape.vocabulary,
        "rope.freq_base": 10000.0,
    }  # fmt: skip


def build_bf16(weights: Weights, path: Path) -> Path:
    """The file in bfloat16, norms and routers in float32: the source for llama.cpp's own quantization."""
    return write(path, "olmoe", fields(weights.shape), _bf16_tensors(weights))


def build_random(weights: Weights, mix: str, path: Path) -> Path:
    """The file as a low-bit mix: real norms, routers and (8-bit) embedding, random blocks for everything else."""
    return write(path, "olmoe", fields(weights.shape), _random_tensors(weights, MIXES[mix]))


def trunk_names(shape: Shape) -> Iterator[tuple[str, int, str]]:
    """llama.cpp's name, layer (−1: outside) and checkpoint name of each tensor outside the experts."""
    for name, source in OUTSIDE.items():
        yield name, -1, f"{source}.weight"
    for layer in range(shape.layers):
        for name, source in LAYER.items():
            yield name, layer, f"model.layers.{layer}.{source}.weight"


def _bf16_tensors(weights: Weights) -> Iterator[Tensor]:
    for name, layer, source in trunk_names(weights.shape):
        shape = weights.trunk_shapes()[source]
        make = float32 if name in SMALL or len(shape) == 1 else bfloat16
        yield make(_named(name, layer), shape, partial(weights.trunk, source))
    for layer, projection in product(range(weights.shape.layers), PROJECTIONS):
        name = _named(f"ffn_{projection}_exps", layer)
        yield bfloat16(name, _experts_shape(weights.shape, projection), partial(_experts, weights, layer, projection))


def _random_tensors(weights: Weights, mix: Mix) -> Iterator[Tensor]:
    for name, layer, source in trunk_names(weights.shape):
        shape, full = weights.trunk_shapes()[source], _named(name, layer)
        if name in SMALL or len(shape) == 1:
            yield float32(full, shape, partial(weights.trunk, source))
        elif name == "token_embd":
            yield Tensor(full, shape, Type.Q8_0, partial(_embedding, weights))
        else:
            yield _random(weights, full, shape, mix(name, layer), weights.trunk_deviation(source))
    for layer, projection in product(range(weights.shape.layers), PROJECTIONS):
        name, shape = f"ffn_{projection}_exps", _experts_shape(weights.shape, projection)
        deviation = weights.expert_deviation(layer, projection)
        yield _random(weights, _named(name, layer), shape, mix(name, layer), deviation)


def _named(name: str, layer: int) -> str:
    return f"{name}.weight" if layer < 0 else f"blk.{layer}.{name}.weight"


def _experts_shape(shape: Shape, projection: Projection) -> tuple[int, int, int]:
    tall = projection == "down"
    return (shape.experts, shape.hidden, shape.width) if tall else (shape.experts, shape.width, shape.hidden)


def _experts(weights: Weights, layer: int, projection: Projection) -> Floats:
    return np.stack([weights.expert(layer, index, projection) for index in range(weights.shape.experts)])


def _embedding(weights: Weights) -> npt.NDArray[np.uint8]:
    quantized: npt.NDArray[np.uint8] = gguf.quants.quantize(weights.trunk(EMBEDDING), Type.Q8_0)
    return quantized


def _random(weights: Weights, name: str, shape: tuple[int, ...], kind: Type, deviation: float) -> Tensor:
    return Tensor(name, shape, kind, lambda: random_blocks(kind, shape, deviation, weights.generator(name)))
