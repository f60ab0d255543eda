"""Random weights whose routing looks like a trained model's, each tensor a function of (shape, seed, name) alone.

Plain random weights collapse: every layer adds nearly the same vector to every token, and a few experts take all of
them. Here the residual stream stays near what it began as. A token's embedding is a part common to all, which makes
some experts popular, a part shared by its topic (`tokens.stream` stays with a topic for a while, so neighbours share
experts) and noise of its own; each layer adds attention and experts of a fixed share of the stream's size. The shares
were chosen so that caches behave as with OLMoE-1B-7B on text; `routing` has both figures.

Values are bfloat16, so that every file made from them starts from the same numbers.
"""

from __future__ import annotations

import zlib
from functools import cache, cached_property
from math import prod
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from moecompress.codecs.bfloat16 import bf16_bits, bf16_values
from moecompress.core.types import Projection
from synthetic.shapes import Shape

Floats = npt.NDArray[np.float32]

COMMON, TOPIC = 0.3, 0.61
FEED_FORWARD = 0.35
ATTENTION = 0.25
ROUTER = 1.5  # standard deviation of router logits

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORMS = ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm")


class Weights:
    """The tensors of one synthetic model."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape, self.seed = shape, seed

    def generator(self, name: str) -> np.random.Generator:
        """The source of a tensor's numbers."""
        return np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))

    def trunk_shapes(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint name → shape of every tensor outside the experts."""
        shape = self.shape
        square, vocabulary, norm = (shape.hidden,) * 2, (shape.vocabulary, shape.hidden), (shape.hidden,)
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: vocabulary, "model.norm.weight": norm, HEAD: vocabulary}
        for layer in range(shape.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {f"{prefix}.self_attn.{part}_proj.weight": square for part in "qkvo"}
            shapes |= {f"{prefix}.{name}.weight": norm for name in NORMS}
            shapes[router_name(layer)] = (shape.experts, shape.hidden)
        return shapes

    def trunk(self, name: str) -> Floats:
        """A tensor outside the experts, by its checkpoint name."""
        shape = self.trunk_shapes()[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return self._embedding() if name == EMBEDDING else self._normal(name, shape, self.trunk_deviation(name))

    def trunk_deviation(self, name: str) -> float:
        """Standard deviation of a matrix outside the experts."""
        plain = float(self.shape.hidden**-0.5)
        if name.endswith("o_proj.weight"):
            return plain * ATTENTION * self._stream(int(name.split(".")[2]))
        return {EMBEDDING: 1.0}.get(name, ROUTER * plain if name.endswith("mlp.gate.weight") else plain)

    def expert(self, layer: int, index: int, projection: Projection) -> Floats:
        """One matrix of an expert: gate and up `[width, hidden]`, down `[hidden, width]`."""
        shape = (self.shape.width, self.shape.hidden)
        name = f"layers.{layer}.experts.{index}.{projection}"
        deviation = self.expert_deviation(layer, projection)
        return self._normal(name, shape[::-1] if projection == "down" else shape, deviation)

    def expert_deviation(self, layer: int, projection: Projection) -> float:
        """Standard deviation of a matrix of an expert."""
        if projection == "down":
            return FEED_FORWARD * self._stream(layer) / (self._mixture * self.shape.width**0.5)
        return float(self.shape.hidden**-0.5)

    def topic(self, token: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The topic of tokens."""
        return token % self.shape.topics

    def _embedding(self) -> Floats:
        shape = self.shape
        centres = self.generator("topics").standard_normal((shape.topics, shape.hidden), np.float32)
        own = self.generator("embedding").standard_normal((shape.vocabulary, shape.hidden), np.float32)
        own *= np.float32((1 - COMMON - TOPIC) ** 0.5)
        own += np.float32(TOPIC**0.5) * centres[self.topic(np.arange(shape.vocabulary))]
        own += np.float32(COMMON**0.5) * self.generator("common").standard_normal(shape.hidden, np.float32)
        return rounded(own)

    def _normal(self, name: str, shape: tuple[int, ...], deviation: float) -> Floats:
        drawn = np.frombuffer(self.generator(name).bytes(2 * prod(shape)), np.uint16)
        values: Floats = rounded(normal_quantiles() * np.float32(deviation))[drawn]
        return values.reshape(shape)

    def _stream(self, layer: int) -> float:
        """Root mean square of the residual stream that enters a layer."""
        return float((1 + FEED_FORWARD**2) ** (layer / 2))

    @cached_property
    def _mixture(self) -> float:
        """Root mean square of silu(gate)·up summed over the chosen experts by their router weights, by simulation."""
        draws = np.random.default_rng(0).standard_normal((2, 4096, self.shape.experts))
        chosen = np.exp(-np.sort(-ROUTER * draws[0], axis=1))
        weights = chosen[:, : self.shape.top_k] / chosen.sum(1, keepdims=True)
        inner = draws[0] / (1 + np.exp(-draws[0])) * draws[1]
        return float(np.sqrt((weights**2).sum(1).mean() * (inner**2).mean()))


def router_name(layer: int) -> str:
    """Checkpoint name of a layer's router."""
    return f"model.layers.{layer}.mlp.gate.weight"


@cache
def normal_quantiles() -> Floats:
    """65 536 values in equal steps of the normal distribution; picking from them is ten times faster than drawing."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((step + 0.5) / 65536) for step in range(65536)], np.float32)


def rounded(values: Floats) -> Floats:
    """The nearest bfloat16 values, as float32."""
    return bf16_values(bf16_bits(values))
