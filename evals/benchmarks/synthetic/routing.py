"""Which experts a synthetic model chooses for a text, by a plain numpy forward pass over the unquantized weights.

OLMoE-1B-7B on 299 tokens of text, for comparison (the trace published with sqliteai/waste): the next token uses 47.6 %
of a token's experts again (chance: 12.5 %); an LRU cache finds 46 % in the memory of 1.5 tokens' experts and 69 % in
that of 3, the best possible one 70 % and 86 %. Routers one layer early find 59–89 % of the choice in various models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.runtime import _native
from synthetic.shapes import Shape
from synthetic.weights import EMBEDDING, HEAD, Floats, Weights, router_name

Choices = npt.NDArray[np.int64]
POLICIES = ("lru", "belady")


def measure(weights: Weights, ids: Sequence[int]) -> dict[str, Any]:
    """Figures of the routing of one text, averages over layers; see `summary`."""
    _, chosen, guessed = forward(weights, ids)
    return summary(weights.shape, chosen, guessed)


def forward(weights: Weights, ids: Sequence[int]) -> tuple[Floats, Choices, Choices]:
    """Logits `[tokens, vocabulary]`, chosen experts `[layers, tokens, top_k]`, and choices guessed one layer early.

    The guesses have a layer fewer: the n-th are the choices of layer n + 1's router on layer n's input.
    """
    shape = weights.shape
    hidden = weights.trunk(EMBEDDING)[np.asarray(ids)]
    chosen, guessed = [], []
    for layer in range(shape.layers):
        hidden = hidden + attention(weights, layer, normalised(hidden))
        inputs = normalised(hidden)
        logits = inputs @ weights.trunk(router_name(layer)).T
        picked = top(logits, shape.top_k)
        chosen.append(picked)
        if layer + 1 < shape.layers:
            guessed.append(top(inputs @ weights.trunk(router_name(layer + 1)).T, shape.top_k))
        hidden = hidden + experts(weights, layer, inputs, logits, picked)
    logits = normalised(hidden) @ weights.trunk(HEAD).T
    return logits, np.stack(chosen), np.array(guessed, int).reshape(-1, len(ids), shape.top_k)


def summary(shape: Shape, chosen: Choices, guessed: Choices) -> dict[str, Any]:
    """`effective_experts`: exp of the entropy of use. `next_token_reuse`: share of experts the token before used too.

    `next_layer_recall`: share of experts that the next layer's router names one layer ahead. `hit_rates`: policy →
    share of experts found in a cache of 1.5 and of 3 tokens' experts, after the first 8 tokens.
    """
    used = np.stack([np.bincount(layer.ravel(), minlength=shape.experts) for layer in chosen])
    share = used / used.sum(1, keepdims=True)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(1)
    return {
        "experts": shape.experts,
        "top_k": shape.top_k,
        "tokens": chosen.shape[1],
        "effective_experts": round(float(np.exp(entropy).mean()), 1),
        "least_effective_layer": round(float(np.exp(entropy).min()), 1),
        "next_token_reuse": round(overlap(chosen[:, 1:], chosen[:, :-1]), 3),
        "next_layer_recall": round(overlap(chosen[1:], guessed), 3),
        "hit_rates": {policy: [hit_rate(shape, chosen, policy, sets) for sets in (1.5, 3)] for policy in POLICIES},
    }


def hit_rate(shape: Shape, chosen: Choices, policy: str, token_sets: float) -> float:
    """Share of lookups that find their expert, after 8 tokens, in a cache of so many tokens' experts."""
    layers, tokens, top_k = chosen.shape
    slots = min(round(token_sets * layers * top_k), layers * shape.experts)
    by_token = np.ascontiguousarray(chosen.transpose(1, 0, 2)).astype(np.uint16)
    missed, _ = _native.replay(by_token, [shape.experts] * layers, policy, slots)
    return round(1 - float(missed.reshape(tokens, -1)[8:].astype(bool).mean()), 3)


def overlap(left: Choices, right: Choices) -> float:
    """Mean share of the last axis of `left` that is found in that of `right`."""
    return float((left[..., :, None] == right[..., None, :]).any(-1).mean()) if left.size else 0.0


def attention(weights: Weights, layer: int, inputs: Floats) -> Floats:
    """Causal attention of one layer for `[tokens, hidden]`; norms of ones."""
    names = {part: f"model.layers.{layer}.self_attn.{part}_proj.weight" for part in "qkvo"}
    query, key, value = (inputs @ weights.trunk(names[part]).T for part in "qkv")
    heads = weights.shape.heads
    query, key = (rotated(split(normalised(part), heads)) for part in (query, key))
    scores = query @ key.transpose(0, 2, 1) / query.shape[2] ** 0.5
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(2, keepdims=True))
    mixed = (scores / scores.sum(2, keepdims=True)) @ split(value, heads)
    out: Floats = mixed.transpose(1, 0, 2).reshape(inputs.shape) @ weights.trunk(names["o"]).T
    return out


def experts(weights: Weights, layer: int, inputs: Floats, logits: Floats, picked: Choices) -> Floats:
    """The chosen experts' sum, weighted by the router's softmax over all experts."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    out = np.zeros_like(inputs)
    for expert in np.unique(picked):
        rows = np.flatnonzero((picked == expert).any(1))
        gate = inputs[rows] @ weights.expert(layer, expert, "gate").T
        up = inputs[rows] @ weights.expert(layer, expert, "up").T
        down = (gate / (1 + np.exp(-gate)) * up) @ weights.expert(layer, expert, "down").T
        out[rows] += shares[rows, expert, None] * down
    return out


def normalised(values: Floats) -> Floats:
    """Root-mean-square norm of the last axis."""
    return values / np.sqrt((values**2).mean(-1, keepdims=True) + np.float32(1e-5))


def top(logits: Floats, count: int) -> Choices:
    """Indices of the `count` largest, `[tokens, count]`."""
    return np.argpartition(-logits, count - 1, axis=1)[:, :count]


def split(values: Floats, heads: int) -> Floats:
    """`[tokens, hidden]` as `[heads, tokens, size]`."""
    return values.reshape(len(values), heads, -1).transpose(1, 0, 2)


def rotated(values: Floats) -> Floats:
    """Rotary embedding, halves rotated against each other."""
    size = values.shape[2]
    angles = np.arange(values.shape[1])[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    left, right = values[..., : size // 2], values[..., size // 2 :]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
