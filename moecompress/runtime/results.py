"""What a generation leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class StoreStats:
    """Traffic of the expert store during one request.

    Every expert looked up is a hit (in memory because it was used before), a speculative hit (read ahead, and used for
    the first time) or a miss (read when it was wanted), by phase. Of the experts read ahead (`speculative_reads`) those
    cancelled, failed or given up unused are wasted. `bytes_read` is all that came from the files.
    """

    prefill_hits: int
    prefill_speculative_hits: int
    prefill_misses: int
    prefill_seconds_waited: float
    decode_hits: int
    decode_speculative_hits: int
    decode_misses: int
    decode_seconds_waited: float
    reads: int
    speculative_reads: int
    wasted_reads: int
    failed_speculative_reads: int
    bytes_read: int
    wasted_bytes: int
    direct: bool

    @property
    def decode_lookups(self) -> int:
        """Experts looked up while decoding."""
        return self.decode_hits + self.decode_speculative_hits + self.decode_misses

    @property
    def hit_rate(self) -> float | None:
        """Share of experts that stayed in memory until they were wanted again, while decoding; None without lookups."""
        return self.decode_hits / self.decode_lookups if self.decode_lookups else None

    @property
    def speculative_hit_rate(self) -> float | None:
        """Share of experts that were read ahead of their first use, while decoding; None without lookups."""
        return self.decode_speculative_hits / self.decode_lookups if self.decode_lookups else None

    @property
    def seconds_waited(self) -> float:
        """Time that computing stood still for a read."""
        return self.prefill_seconds_waited + self.decode_seconds_waited


@dataclass(frozen=True)
class GenerationResult:
    """A finished text. `reused_tokens` of the prompt were in the key-value cache already.

    `tokens_per_s` is of decoding, `prefill_tokens_per_s` of the prompt's part that was computed. `lossy` names the
    options that changed the output, such as `kv=int8`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    seconds_to_first_token: float
    seconds: float
    peak_rss_bytes: int
    budget_bytes: int
    lossy: tuple[str, ...]
    store: StoreStats

    @property
    def completion_tokens(self) -> int:
        """Tokens generated, a final end-of-text token included."""
        return len(self.token_ids)

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed; the first token belongs to the prompt."""
        return _rate(len(self.token_ids) - 1, self.seconds - self.seconds_to_first_token)

    @property
    def prefill_tokens_per_s(self) -> float:
        """Speed of reading the prompt."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.seconds_to_first_token)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        computed = ("completion_tokens", "tokens_per_s", "prefill_tokens_per_s")
        return {
            **asdict(self),
            "token_ids": list(self.token_ids),
            "lossy": list(self.lossy),
            **{name: getattr(self, name) for name in computed},
            "hit_rate": self.store.hit_rate,
            "speculative_hit_rate": self.store.speculative_hit_rate,
        }


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
