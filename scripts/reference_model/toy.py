"""The toy base: a random Llama over bytes, for running every stage in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .base import save_model
from .seeds import generator
from .settings import ToyBase

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_toy(folder: Path, source: ToyBase, seed: int) -> dict[str, Any]:
    """Write the toy model: normal weights of standard deviation 1/sqrt(inputs), 256 bytes and three special tokens."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=source.hidden,
        intermediate_size=source.ffn,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        num_key_value_heads=source.heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model: Any = LlamaForCausalLM(config)
    random = generator(seed, "toy")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * parameter.shape[1] ** -0.5)
    save_model(model.to(torch.bfloat16), folder)
    tokenizer.save_pretrained(folder)
    return {"model": source.name, "parameters": model.num_parameters()}


def byte_tokenizer() -> Any:
    """One token a byte."""
    letters = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    end, start, stop = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=stop,
        pad_token=stop,
        unk_token=end,
        chat_template=CHAT,
        model_max_length=512,
    )
