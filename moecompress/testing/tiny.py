"""Tiny real checkpoints: transformers' own classes with random weights, saved as transformers saves them.

Weights are scaled so that attention, routing and logits all matter: routing is spread over the experts, the experts'
output is of the size of the residual stream, and logits have a spread of a few units. A wrong weight, a swapped
projection or a missing normalisation changes the logits visibly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

from moecompress.core.errors import UsageError

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
EOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 304

_MERGES = (
    "t h,i n,e r,a n,r e,o n,e n,th e,a t,o r,Ġ t,Ġ a,i t,in g,Ġ s,e s,o u,Ġ w,a l,Ġ o,"
    "Ġ the,l e,o f,Ġ c,v e,an d,Ġ b,Ġ f,r o,Ġ p,Ġ in,i on,s e,d e,c o,m e,l l,s t,n t,Ġ an"
)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "num_experts_per_tok": 2, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": 256,
}  # fmt: skip
_OWN: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "intermediate_size": 32},
    "qwen2_moe": {
        "num_experts": 8, "moe_intermediate_size": 32, "intermediate_size": 96, "shared_expert_intermediate_size": 64,
        "norm_topk_prob": False,
    },
    "qwen3_moe": {
        "num_experts": 8, "moe_intermediate_size": 32, "intermediate_size": 96, "head_dim": 32, "norm_topk_prob": True,
    },
    "olmoe": {"num_experts": 8, "intermediate_size": 32, "num_key_value_heads": 4},
}  # fmt: skip


def tiny_config(family: str, **overrides: Any) -> Any:
    """The transformers config of a tiny model: hidden 64, 8 experts, top-2, two layers, unless overridden."""
    if family not in _OWN:
        raise UsageError(f"There is no tiny model of the family {family!r}. Known: {', '.join(FAMILIES)}.")
    return CONFIG_MAPPING[family].from_dict({"model_type": family, **_COMMON, **_OWN[family], **overrides})


def tiny_model(family: str, *, seed: int = 0, **overrides: Any) -> Any:
    """A random model in memory, float32, in evaluation mode; the same bits for the same arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            tiny_config(family, **overrides), dtype=torch.float32
        )
        _scale(model)
    return model.eval()


def tiny_model_folder(
    family: str,
    path: str | Path,
    *,
    fused: bool = False,
    sharded: bool = False,
    seed: int = 0,
    dtype: str = "bfloat16",
    **config_overrides: Any,
) -> Path:
    """Write a checkpoint with tokenizer into `path` and return it.

    `fused` stores a layer's experts in stacked tensors instead of the family's own names; `sharded` splits the file.
    """
    folder = Path(path)
    model = tiny_model(family, seed=seed, **config_overrides).to(getattr(torch, dtype))
    if fused:
        _save_fused(model, folder, sharded)
    else:
        with _quiet():
            model.save_pretrained(folder, max_shard_size="100KB" if sharded else "1GB")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, *, ending: bool = True) -> None:
    """A byte-level tokenizer of 299 tokens with a chat template and, if `ending`, an end-of-text token."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": EOS, "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if not ending:
        del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(_CHAT)


@lru_cache(maxsize=1)
def _tokenizer_json() -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(left, right) for left, right in (pair.split(" ") for pair in _MERGES.split(","))]
    specials = [EOS, START, END]
    tokens = [*alphabet, *specials, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer.to_str()


@contextmanager
def _quiet() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _scale(model: Any) -> None:
    """Standard deviations by what a parameter does; norms around 1, biases small."""
    for name, parameter in model.named_parameters():
        values = torch.randn_like(parameter)
        if "norm" in name:
            parameter.data = 1 + 0.2 * values
        elif name.endswith("bias"):
            parameter.data = 0.2 * values
        elif "embed_tokens" in name:
            parameter.data = values
        else:
            parameter.data = _gain(name) * values / parameter.shape[-1] ** 0.5


def _gain(name: str) -> float:
    gains = {"lm_head": 3.0, "experts.gate_up_proj": 1.5, "experts.down_proj": 3.0, "mlp.gate.weight": 2.0}
    return next((gain for key, gain in gains.items() if key in name), 1.5)


def _save_fused(model: Any, folder: Path, sharded: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = set(model.all_tied_weights_keys)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    if not sharded:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[0::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
