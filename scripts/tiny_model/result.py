"""The finished model's folder."""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeForCausalLM

from tiny_model.settings import CHAT_TEMPLATE, END_OF_TEXT, Settings
from tiny_model.text import spread_windows

HELDOUT_WINDOWS = 48
LOSS_POINTS = 200


@torch.no_grad()
def window_nll(model: Qwen3MoeForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of each window, nats per token: [windows, length] -> [windows]."""
    losses = []
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
        losses.append(F.cross_entropy(logits, window[1:]))
    return torch.stack(losses)


def heldout_nll(folder: Path, tokenizer: Tokenizer, settings: Settings) -> float:
    """Held-out negative log-likelihood of the model as written in `folder`, nats per token."""
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32)
    windows = spread_windows(tokenizer, "heldout", settings.window, HELDOUT_WINDOWS)
    return window_nll(model, windows).mean().item()


def save_model(
    model: Qwen3MoeForCausalLM, tokenizer: Tokenizer, settings: Settings, losses: list[float], out: Path
) -> None:
    """Write the bf16 model, its tokenizer and the training record as a folder that appears by one rename."""
    model.to(torch.bfloat16)
    temporary = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    GenerationConfig.from_model_config(model.config).save_pretrained(temporary)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=settings.window,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(temporary)
    nll = heldout_nll(temporary, tokenizer, settings)
    thin = max(1, len(losses) // LOSS_POINTS)
    record = {
        "steps": len(losses),
        "tokens": len(losses) * settings.tokens_per_step,
        "seed": settings.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "heldout_nll": round(nll, 5),
        "heldout_perplexity": round(math.exp(nll), 4),
        "settings": asdict(settings),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "loss_curve": [[step + 1, round(losses[step], 4)] for step in range(0, len(losses), thin)],
    }
    (temporary / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    temporary.rename(out)
    print(f"{out}: held-out perplexity {math.exp(nll):.3f} after {len(losses)} steps", file=sys.stderr)
