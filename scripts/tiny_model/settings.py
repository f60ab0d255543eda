"""Dimensions and schedule of the embedded default model."""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\n' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
MICRO_BATCHES = 2


@dataclass(frozen=True)
class Settings:
    """Everything the weights depend on. Two runs with equal settings end in equal weights."""

    steps: int = 7000
    seed: int = 0
    window: int = 512  # tokens
    windows_per_micro_batch: int = 2
    learning_rate: float = 2e-3  # peak
    warmup_steps: int = 200
    weight_decay: float = 0.1
    second_moment_decay: float = 0.99  # long, because a step sees few tokens of each expert
    auxiliary_loss: float = 0.02
    gradient_clip: float = 1.0
    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 2
    experts: int = 8
    top_k: int = 2
    expert_width: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    documents: int | None = None  # the first so many; None: all

    @property
    def tokens_per_step(self) -> int:
        """Tokens of all micro-batches of one optimizer step."""
        return MICRO_BATCHES * self.windows_per_micro_batch * self.window


TOY = Settings(
    steps=6, window=32, warmup_steps=2, vocabulary=300, hidden=32, layers=2, experts=4, expert_width=16,
    heads=2, kv_heads=1, head_dim=16, documents=12,
)  # fmt: skip
