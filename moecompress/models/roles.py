"""What a tensor outside the routed experts is for, from its name and shape: passes protect or change by role."""

from __future__ import annotations

import re

from moecompress.core.types import MoeLayer, Role

_RULES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("bias", re.compile(r"(^|[._])bias$")),
    ("norm", re.compile(r"norm[^.]*\.weight$")),
    ("embedding", re.compile(r"(^|\.)(embed_tokens|embeddings?|wte)\.weight$")),
    ("head", re.compile(r"(^|\.)(lm_head|output_head)\.weight$")),
    ("attention", re.compile(r"\.(self_attn|attention|attn)\.")),
    ("dense_ffn", re.compile(r"\.(mlp|feed_forward|ffn)\.")),
)


def role_of(name: str, shape: tuple[int, ...], moe: MoeLayer | None) -> Role:
    """The role of a trunk tensor; `moe` is the MoE block of its layer, if it has one.

    A matrix with a single row that weighs a shared expert counts as router: it decides, and is too small to compress.
    """
    if moe is not None and name in moe.router:
        return "router"
    if moe is not None and name in moe.shared:
        return "bias" if name.endswith("bias") else "router" if shape[:1] == (1,) else "shared_expert"
    return next((role for role, pattern in _RULES if pattern.search(name)), "other")
