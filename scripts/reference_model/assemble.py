"""Puts the experts and the routers into a Mixtral; everything else is the base's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from . import expert, router
from .base import copy_tokenizer, load_dense, save_model
from .stage import Result


def make_mixture(folder: Path, base: Result, experts: Sequence[Result], routers: Result, top_k: int) -> dict[str, Any]:
    """Write the untuned Mixtral folder; report its size and how much the experts' neurons overlap."""
    dense = load_dense(base)
    stacks = [load_file(result.folder / expert.WEIGHTS) for result in experts]
    gates = load_file(routers.folder / router.WEIGHTS)["weight"]
    width = stacks[0]["gate_proj"].shape[1]
    model: Any = MixtralForCausalLM(mixtral_config(dense.config, width, len(experts), top_k))
    model.to(torch.bfloat16)
    fill(model, dense, stacks, gates)
    save_model(model, folder)
    copy_tokenizer(base, folder)
    return {
        "parameters": model.num_parameters(),
        "kept_overlap": overlap(torch.stack([stack["kept"] for stack in stacks])),
    }


def mixtral_config(dense: Any, width: int, experts: int, top_k: int) -> MixtralConfig:
    """The base's configuration with `experts` experts of `width` neurons in place of each FFN."""
    return MixtralConfig(
        vocab_size=dense.vocab_size,
        hidden_size=dense.hidden_size,
        intermediate_size=width,
        num_hidden_layers=dense.num_hidden_layers,
        num_attention_heads=dense.num_attention_heads,
        num_key_value_heads=dense.num_key_value_heads,
        head_dim=dense.head_dim,
        max_position_embeddings=dense.max_position_embeddings,
        rms_norm_eps=dense.rms_norm_eps,
        rope_parameters=dict(dense.rope_parameters),
        tie_word_embeddings=True,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        sliding_window=None,
        bos_token_id=dense.bos_token_id,
        eos_token_id=dense.eos_token_id,
        pad_token_id=dense.pad_token_id,
    )


@torch.no_grad()
def fill(model: Any, dense: Any, stacks: Sequence[dict[str, torch.Tensor]], gates: torch.Tensor) -> None:
    """Copy every parameter of the Mixtral from where it comes from, refusing one that comes from nowhere."""
    source = dense.state_dict()
    for name, target in model.state_dict().items():
        if name in source:
            target.copy_(source[name])
            continue
        layer = int(name.split(".")[2])
        if name.endswith("mlp.gate.weight"):
            target.copy_(gates[layer])
        elif name.endswith("experts.gate_up_proj"):
            target.copy_(torch.stack([torch.cat([s["gate_proj"][layer], s["up_proj"][layer]]) for s in stacks]))
        elif name.endswith("experts.down_proj"):
            target.copy_(torch.stack([s["down_proj"][layer] for s in stacks]))
        else:
            raise RuntimeError(f"nothing gives the parameter {name}")


def overlap(kept: torch.Tensor) -> dict[str, float]:
    """The least, mean and greatest share of neurons that two experts of a layer both keep, of kept [E, L, W]."""
    experts, layers, width = kept.shape
    masks = torch.zeros(experts, layers, int(kept.max()) + 1).scatter_(2, kept, 1.0)
    shared = torch.einsum("alf,blf->abl", masks, masks) / width
    pairs = shared[tuple(torch.triu_indices(experts, experts, 1))]
    return {name: round(float(getattr(pairs, name)()), 3) for name in ("min", "mean", "max")}
