"""The training loop: two micro-batches a step, on one process or two, with checkpoints."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.optim import Optimizer
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tiny_model.progress import Progress
from tiny_model.settings import END_OF_TEXT, MICRO_BATCHES, Settings
from tiny_model.text import Windows, encode_split


@dataclass(frozen=True)
class Run:
    """Where and with how many processes a training runs: nothing here changes the weights."""

    work: Path
    checkpoint_every: int  # steps
    processes: int = 1
    rank: int = 0

    @property
    def checkpoint(self) -> Path:
        """Model, optimizer and losses after the last saved step."""
        return self.work / "checkpoint.pt"


def new_model(settings: Settings, end_of_text: int) -> Qwen3MoeForCausalLM:
    """A freshly initialised fp32 model; the same weights for the same settings."""
    config = Qwen3MoeConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.expert_width,
        moe_intermediate_size=settings.expert_width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        num_experts=settings.experts,
        num_experts_per_tok=settings.top_k,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        max_position_embeddings=settings.window,
        router_aux_loss_coef=settings.auxiliary_loss,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )
    torch.manual_seed(settings.seed)
    model = Qwen3MoeForCausalLM(config).float()
    model.set_experts_implementation("grouped_mm")
    return model


def balance_loss(router_logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Switch-style balance of one layer: E * sum_e(share of choices * mean probability); 1 when uniform.

    Per layer, unlike the sum in transformers, which lets one layer's idle expert hide behind another layer.
    """
    probabilities = router_logits.softmax(-1)  # [tokens, E]
    experts = probabilities.shape[1]
    chosen = probabilities.topk(top_k).indices.flatten()
    share = torch.bincount(chosen, minlength=experts) / chosen.numel()
    return experts * (share * probabilities.mean(0)).sum()


def gradient(model: Qwen3MoeForCausalLM, tokens: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Flat gradient of one micro-batch [windows, length], then its loss in nats: [parameters + 1]."""
    model.zero_grad(set_to_none=True)
    output = model(input_ids=tokens, output_router_logits=True, use_cache=False)
    loss = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    balance = torch.stack([balance_loss(logits, settings.top_k) for logits in output.router_logits]).mean()
    (loss + settings.auxiliary_loss * balance).backward()
    return torch.cat([*(parameter.grad.flatten() for parameter in model.parameters()), loss.detach()[None]])


def averaged_gradient(
    model: Qwen3MoeForCausalLM, windows: Windows, step: int, settings: Settings, run: Run
) -> tuple[torch.Tensor, float]:
    """Mean over the step's micro-batches of (flat gradient, loss), the same bits for one or two processes."""
    size = settings.windows_per_micro_batch
    mine = range(MICRO_BATCHES) if run.processes == 1 else [run.rank]
    total = None
    for micro in mine:
        first = (step * MICRO_BATCHES + micro) * size
        part = gradient(model, torch.stack([windows[first + i] for i in range(size)]), settings)
        total = part if total is None else total + part
    if run.processes == 2:
        torch.distributed.all_reduce(total)
    total /= MICRO_BATCHES
    return total[:-1], total[-1].item()


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def apply_gradient(model: Qwen3MoeForCausalLM, optimizer: Optimizer, flat: torch.Tensor, clip: float) -> None:
    """Clip the flat gradient to norm `clip` and take an optimizer step."""
    flat *= (clip / (flat.norm() + 1e-6)).clamp(max=1.0)
    offset = 0
    for parameter in model.parameters():
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    optimizer.step()


def new_optimizer(model: Qwen3MoeForCausalLM, settings: Settings) -> Optimizer:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.second_moment_decay), fused=True)


def restore(settings: Settings, tokenizer: Tokenizer, run: Run) -> tuple[Qwen3MoeForCausalLM, Optimizer, list[float]]:
    """Model, optimizer and losses so far, from the checkpoint if there is one."""
    model = new_model(settings, tokenizer.token_to_id(END_OF_TEXT))
    optimizer = new_optimizer(model, settings)
    return model, optimizer, load_checkpoint(run.checkpoint, settings, model, optimizer)


def train(settings: Settings, tokenizer: Tokenizer, run: Run) -> tuple[Qwen3MoeForCausalLM, list[float]]:
    """Run the missing steps. Returns the model (fp32) and the training loss of every step."""
    model, optimizer, losses = restore(settings, tokenizer, run)
    windows = Windows(encode_split(tokenizer, "train", settings.documents), settings.window, settings.seed)
    progress = Progress(settings, len(losses), quiet=run.rank > 0)
    for step in range(len(losses), settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        flat, loss = averaged_gradient(model, windows, step, settings, run)
        apply_gradient(model, optimizer, flat, settings.gradient_clip)
        losses.append(loss)
        progress.show(losses)
        due = step + 1 == settings.steps or (step + 1) % run.checkpoint_every == 0
        if run.rank == 0 and due:
            save_checkpoint(run.checkpoint, settings, model, optimizer, losses)
    return model, losses


def save_checkpoint(
    path: Path, settings: Settings, model: Qwen3MoeForCausalLM, optimizer: Optimizer, losses: list[float]
) -> None:
    """Write the state under a temporary name, then rename: a kill leaves the older checkpoint whole."""
    state = {
        "settings": asdict(settings),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": losses,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, settings: Settings, model: Qwen3MoeForCausalLM, optimizer: Optimizer) -> list[float]:
    """Restore model and optimizer in place; returns the losses so far (empty without a checkpoint)."""
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    if state["settings"] != asdict(settings):
        sys.exit(f"{path} was written with other settings: {state['settings']}; choose another --work folder")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"]
