"""How many experts the bridge keeps in memory: what the budget holds, never fewer than decoding needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from moecompress.artifact.manifest import Manifest
from moecompress.core.errors import BudgetError
from moecompress.core.memory import rss_bytes
from moecompress.core.units import format_size
from moecompress.runtime.ledger import default_budget


@dataclass(frozen=True)
class CacheNeeds:
    """An artifact's experts: how many run per token, how many there are, bytes of the largest and of all."""

    top_k: int
    experts: int
    slot: int
    all_experts: int

    @classmethod
    def of(cls, manifest: Manifest, top_k: int) -> Self:
        """The needs that follow from the manifest's table."""
        sizes = [expert.bytes for layer in manifest.experts for expert in layer.experts]
        return cls(top_k, len(sizes), max(sizes), sum(sizes))

    @property
    def smallest(self) -> int:
        """Bytes of the smallest cache: a token's experts, and as many again that are read meanwhile."""
        return min(min(2 * self.top_k, self.experts) * self.slot, self.all_experts)

    def slots(self, budget: int) -> int:
        """Slots that `budget` bytes hold; 0 when every expert has a place of its own. Raises BudgetError."""
        if budget < self.smallest:
            raise BudgetError(
                f"{format_size(max(budget, 0))} for experts in memory is too little: {self.top_k} run per token, and "
                f"the largest takes {format_size(self.slot)}. The smallest `memory` that works is {self.smallest} "
                f"bytes ({format_size(self.smallest)}); all experts take {format_size(self.all_experts)}."
            )
        return 0 if budget >= self.all_experts else budget // self.slot


def free_memory(manifest: Manifest, weight_bytes: int) -> int:
    """Bytes left for experts by default, when the trunk's weights take `weight_bytes` each."""
    trunk = sum(tensor.parameters for tensor in manifest.trunk.values()) * weight_bytes
    return default_budget() - rss_bytes() - trunk
