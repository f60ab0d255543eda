"""What calibration knows of one decoder layer of the original model: routing, saliencies, inputs, second moments.

Scalars are arrays over the layer's E experts; token inputs and routing stay on disk and everything that can be large is
computed from them when asked for. A dense layer has E = 0 and only the Grams of its linear layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from transformers.activations import ACT2FN

from moecompress.calibration.files import damaged, from_bf16_bits, map_array, take
from moecompress.calibration.grams import GramSum, own_share, shrink
from moecompress.core.errors import CalibrationError, UnsupportedModelError
from moecompress.core.types import Activation

DESCRIPTION, SCALARS, TRUNK = "layer.json", "scalars.safetensors", "trunk.safetensors"
ROUTER_INPUT, TOP_K_INDEX, TOP_K_WEIGHTS = "router_input.npy", "top_k_index.npy", "top_k_weights.npy"
_ROWS = 4096

Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """How well one expert was seen: its tokens, and `lam`, the share of its own Gram in the shrunk one."""

    layer: int
    expert: int
    tokens: int
    lam: float


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of one layer over T tokens, E experts, top-K, hidden size H. p is the softmax of all router logits, g
    the weights the block used, y an expert's output; sums run over the tokens routed to the expert.

    count [E] tokens routed; wsum_raw Σp; wsum_used Σg; sal_reap Σ g·‖y‖₂ (REAP, arXiv 2510.13999); ean Σ‖y‖₂; act_max
    max|y|; coactivation [E, E] tokens routed to both; absmax_in [H] over all router inputs; router_input [T, H] as
    bfloat16 bits; top_k_index [T, K]; top_k_weights [T, K].
    """

    layer: int
    tokens: int
    activation: Activation
    count: Counts
    wsum_raw: Sums
    wsum_used: Sums
    sal_reap: Sums
    ean: Sums
    act_max: Sums
    coactivation: Counts
    absmax_in: npt.NDArray[np.float32]
    router_input: np.memmap[Any, Any]
    top_k_index: np.memmap[Any, Any]
    top_k_weights: np.memmap[Any, Any]
    trunk_groups: Mapping[str, str]
    folder: Path
    gradients: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, gradients: Mapping[str, Path] | None = None) -> LayerStatistics:
        """The statistics kept in `folder`; `gradients` maps a kind of labels to the file of output gradients.

        Raises CalibrationError when a file is missing or damaged.
        """
        try:
            described = json.loads((folder / DESCRIPTION).read_text())
            scalars = load_file(folder / SCALARS)
        except (OSError, ValueError, SafetensorError) as error:
            raise damaged(folder / DESCRIPTION, error) from error
        return cls(
            layer=described["layer"],
            tokens=described["tokens"],
            activation=Activation(**described["activation"]),
            router_input=map_array(folder / ROUTER_INPUT),
            top_k_index=map_array(folder / TOP_K_INDEX),
            top_k_weights=map_array(folder / TOP_K_WEIGHTS),
            trunk_groups=described["trunk_groups"],
            folder=folder,
            gradients=gradients or {},
            **scalars,
        )

    @property
    def experts(self) -> int:
        """E, 0 for a dense layer."""
        return len(self.count)

    def rows(self, expert: int) -> npt.NDArray[np.intp]:
        """The tokens routed to an expert, ascending."""
        if not 0 <= expert < self.experts:
            raise CalibrationError(f"Layer {self.layer} has {self.experts} experts, so there is no expert {expert}.")
        return np.flatnonzero((self._top_k_index == expert).any(axis=1))

    def inputs(self, rows: slice | npt.NDArray[np.intp]) -> torch.Tensor:
        """Router inputs of some tokens, float32 `[n, H]`."""
        return from_bf16_bits(take(self.router_input, rows))

    def routing_weights(self, expert: int, rows: npt.NDArray[np.intp]) -> torch.Tensor:
        """The weight g that an expert's output got for each of some tokens, float32 `[n]`; 0 where it was not used."""
        weights = np.asarray(take(self.top_k_weights, rows), np.float32)
        return torch.from_numpy((weights * (self._top_k_index[rows] == expert)).sum(1))

    @property
    def text_gradient(self) -> np.memmap[Any, Any]:
        """d(cross-entropy of the text)/d(layer output) of the first tokens, `[Tg, H]` as bfloat16 bits."""
        return self.gradient("text")

    @property
    def model_gradient(self) -> np.memmap[Any, Any]:
        """The same for tokens drawn from the model's own prediction: its mean square is the Fisher information."""
        return self.gradient("model")

    def gradient(self, labels: str) -> np.memmap[Any, Any]:
        """`text_gradient` or `model_gradient`. Raises CalibrationError when it was not collected."""
        path = self.gradients.get(labels)
        if path is None:
            raise CalibrationError(
                f"Layer {self.layer} has no output gradient for {labels!r} labels; collect it first."
            )
        return map_array(path)

    def gradient_rows(self, labels: str, rows: npt.NDArray[np.intp]) -> torch.Tensor:
        """The output gradient of some tokens, float32 `[n, H]`."""
        return from_bf16_bits(take(self.gradient(labels), rows))

    def gram_in(self, expert: int) -> torch.Tensor:
        """Mean of x xᵀ over the tokens routed to an expert, `[H, H]`: for gate and up. Zeros when there are none."""
        return self._gram(self.rows(expert))

    def gram_layer(self) -> torch.Tensor:
        """Mean of x xᵀ over all router inputs, `[H, H]`."""
        return self._gram_layer

    def gram_mid(self, expert: int, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        """Mean of h hᵀ over the tokens routed to an expert, `[I, I]`: for down. Zeros when there are none.

        h = act(gate x) * (up x) through the matrices given, `[I, H]`, so that down can be fitted to quantised ones.
        """
        return self._gram(self.rows(expert), gate, up)

    def gram_mid_layer(self, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        """Like `gram_mid`, over a random sample of 2 I tokens of the whole layer, whatever they were routed to."""
        return self._gram(self.sample(2 * up.shape[0]), gate, up)

    def shrunk_gram_in(self, expert: int) -> torch.Tensor:
        """`gram_in` shrunk towards `gram_layer`; the latter for an expert that saw no token."""
        return shrink(self.gram_in(expert), self.gram_layer(), int(self.count[expert]))

    def shrunk_gram_mid(self, expert: int, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        """`gram_mid` shrunk towards `gram_mid_layer`; the latter for an expert that saw no token."""
        own = self.gram_mid(expert, gate, up)
        return shrink(own, self.gram_mid_layer(gate, up), int(self.count[expert]))

    def trunk_gram(self, name: str) -> torch.Tensor | None:
        """Mean of x xᵀ over all inputs of a linear layer outside the experts, by its weight's checkpoint name.

        None for tensors that are no linear layer's weight.
        """
        if name not in self.trunk_groups:
            return None
        try:
            with safe_open(self.folder / TRUNK, framework="pt") as file:
                gram: torch.Tensor = file.get_tensor(self.trunk_groups[name])
        except (OSError, SafetensorError) as error:
            raise damaged(self.folder / TRUNK, error) from error
        return gram

    def sample(self, count: int) -> npt.NDArray[np.intp]:
        """At most `count` tokens of the layer, ascending, drawn with the layer's index as seed."""
        count = min(count, self.tokens)
        return np.sort(np.random.default_rng(self.layer).choice(self.tokens, count, replace=False)).astype(np.intp)

    def coverage_table(self) -> list[Coverage]:
        """One row per expert."""
        width = len(self.absmax_in)
        return [
            Coverage(self.layer, expert, int(tokens), own_share(int(tokens), width))
            for expert, tokens in enumerate(self.count)
        ]

    @cached_property
    def _top_k_index(self) -> npt.NDArray[np.int16]:
        return np.asarray(take(self.top_k_index, slice(None)))

    @cached_property
    def _gram_layer(self) -> torch.Tensor:
        return self._gram(np.arange(self.tokens))

    def _gram(
        self, rows: npt.NDArray[np.intp], gate: torch.Tensor | None = None, up: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gram of the inputs, or of what `up` (and `gate`) make of them."""
        total = GramSum(len(self.absmax_in) if up is None else up.shape[0])
        for first in range(0, len(rows), _ROWS):
            values = self.inputs(rows[first : first + _ROWS])
            total.add(values if up is None else expert_hidden(values, gate, up, self.activation))
        return total.mean()


def expert_hidden(
    inputs: torch.Tensor, gate: torch.Tensor | None, up: torch.Tensor, activation: Activation
) -> torch.Tensor:
    """What an expert's down projection sees, float32 `[n, I]`, for inputs `[n, H]`; `gate` is None if it has none.

    Raises UnsupportedModelError for an activation with limits, which only a family's own code computes.
    """
    return gated(None if gate is None else inputs @ gate.float().mT, inputs @ up.float().mT, activation)


def gated(gate: torch.Tensor | None, up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """act(gate) · up, or act(up) without a gate, for what the two projections made of the inputs, `[n, I]` each.

    Raises UnsupportedModelError for an activation with limits, which only a family's own code computes.
    """
    if activation.limit is not None or activation.alpha is not None or activation.kind not in ACT2FN:
        raise UnsupportedModelError(f"The experts' activation {asdict(activation)} is not computed outside the model.")
    function = ACT2FN[activation.kind]
    return torch.as_tensor(function(up) if gate is None else function(gate) * up)


def coverage_summary(rows: Sequence[Coverage], width: int) -> str:
    """One sentence on the experts of one or several layers; `width` is the input width d_in of their matrices."""
    tokens = [row.tokens for row in rows]
    few, none = sum(count < width for count in tokens), tokens.count(0)
    return (
        f"{len(tokens)} experts saw {min(tokens)} to {max(tokens)} tokens (median {int(np.median(tokens))}); "
        f"{few} saw fewer than the {width} of a full-rank Gram, {none} saw none"
    )
