"""Shapes of synthetic models, and their config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """An OLMoE: `width` is of one expert, `topics` how many kinds of tokens the vocabulary has (see `weights`)."""

    name: str
    hidden: int
    width: int
    layers: int
    experts: int
    top_k: int
    heads: int
    vocabulary: int
    topics: int = 512
    context: int = 4096

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return 3 * self.hidden * self.width

    @property
    def parameters(self) -> int:
        """Weights of the matrices: experts, attention, embedding, head."""
        per_layer = self.experts * self.expert_parameters + 4 * self.hidden**2
        return self.layers * per_layer + 2 * self.vocabulary * self.hidden

    def config(self) -> dict[str, Any]:
        """The config.json of a transformers OlmoeForCausalLM."""
        return {
            "model_type": "olmoe",
            "architectures": ["OlmoeForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "norm_topk_prob": False,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
            "clip_qkv": None,
        }


PRESETS = {
    shape.name: shape
    for shape in (
        Shape("olmoe-7b", hidden=2048, width=1024, layers=16, experts=64, top_k=8, heads=16, vocabulary=50304),
        Shape("olmoe-1.8b", hidden=1024, width=512, layers=16, experts=64, top_k=8, heads=16, vocabulary=50304),
        Shape("quick", hidden=512, width=512, layers=6, experts=64, top_k=8, heads=8, vocabulary=2048),
    )
}
"""The names `--shape` takes. `olmoe-7b` is the shape of OLMoE-1B-7B."""
