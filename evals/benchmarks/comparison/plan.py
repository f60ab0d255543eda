"""What is compared with what: models, bits at about equal bytes per token, caps, and how long each run is."""

from __future__ import annotations

from dataclasses import dataclass

from synthetic.artifact import Bits


@dataclass(frozen=True)
class Pair:
    """A type of llama.cpp and our bits that touch about as many bytes per token."""

    kind: str
    bits: Bits


Q4_K_M = Pair("Q4_K_M", Bits(experts=4, attention=4, head=8))
Q8_0 = Pair("Q8_0", Bits(experts=8, attention=8, head=8))
IQ3_XXS = Pair("IQ3_XXS", Bits(experts=3, attention=3, head=5, group_size=128))
IQ2_XS = Pair("IQ2_XS", Bits(experts=2, attention=3, head=5, group_size=128))
USUAL = Bits(experts=4, attention=8, head=8)
"""What our recipes make: 4-bit experts and an 8-bit trunk, more bytes per token than Q4_K_M."""


@dataclass(frozen=True)
class Plan:
    """Sizes of one whole run. `large` and `small` are shapes; tokens and repeats are per engine and setting."""

    large: str = "olmoe-7b"
    small: str = "olmoe-1.8b"
    caps: tuple[float, ...] = (0.75, 0.5, 0.25)
    repeats: int = 5
    decode_tokens: int = 48
    prefill_tokens: int = 512
    prefill_kinds: tuple[str, ...] = ("Q4_K_M", "Q4_0", "Q8_0", "Q2_K")
    capped_repeats: int = 3
    capped_warm: int = 16
    capped_tokens: int = 48
    capped_seconds: float = 25.0
    context: int = 1024

    @property
    def text(self) -> int:
        """Ids of the token stream that are used."""
        return 8 * self.prefill_tokens


FULL = Plan()
QUICK = Plan(
    large="quick", small="quick", caps=(0.75,), repeats=3, decode_tokens=16, prefill_tokens=64,
    prefill_kinds=("Q4_K_M", "Q8_0"), capped_repeats=2, capped_warm=4, capped_tokens=12, capped_seconds=5.0,
)  # fmt: skip
