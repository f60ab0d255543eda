"""What is recorded while a decoder layer runs: routing, expert outputs, and the inputs of its other linear layers.

Experts are observed by taking their place: for the time of the observation they are computed here, one after the other
and with the module's own activation, through transformers' registry of experts implementations. So every output is at
hand once, and no expert runs twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moecompress.calibration.files import Array, ArrayWriter, bf16_bits
from moecompress.calibration.grams import GramSum
from moecompress.calibration.statistics import ROUTER_INPUT, TOP_K_INDEX, TOP_K_WEIGHTS
from moecompress.core.errors import UnsupportedModelError
from moecompress.core.types import MoeLayer

_IMPLEMENTATION = "moecompress_observed"
SUMS = ("wsum_raw", "wsum_used", "sal_reap", "ean", "act_max")


class ExpertObserver:
    """Sums over a layer's experts, and files of its router inputs and routing. `moe` is None for a dense layer."""

    def __init__(self, moe: MoeLayer | None, tokens: int, folder: Path) -> None:
        experts, hidden, top_k = (moe.experts, moe.hidden, moe.top_k) if moe else (0, 0, 0)
        rows = tokens if moe else 0
        self.experts = experts
        self._sums = {name: torch.zeros(experts, dtype=torch.float64) for name in SUMS}
        self._coactivation = torch.zeros(experts, experts, dtype=torch.int64)
        self._absmax = torch.zeros(hidden)
        self._input = ArrayWriter(folder / ROUTER_INPUT, np.uint16, (rows, hidden))
        self._index = ArrayWriter(folder / TOP_K_INDEX, np.int16, (rows, top_k))
        self._weights = ArrayWriter(folder / TOP_K_WEIGHTS, np.float32, (rows, top_k))

    def routed(
        self, inputs: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor | None
    ) -> None:
        """One batch of tokens was routed: `inputs [T, H]`, `index` and `weights [T, K]`, `logits [T, E]`."""
        if logits is None:
            raise UnsupportedModelError("This family's router does not return its logits; routing cannot be recorded.")
        probabilities = torch.softmax(logits.float(), dim=-1).gather(1, index)
        self._sums["wsum_raw"].index_add_(0, index.flatten(), probabilities.double().flatten())
        self._sums["wsum_used"].index_add_(0, index.flatten(), weights.double().flatten())
        chosen = torch.zeros(len(index), self.experts).scatter_(1, index, 1.0)
        self._coactivation += (chosen.mT @ chosen).long()
        self._absmax = torch.maximum(self._absmax, inputs.float().abs().amax(dim=0))
        self._input.append(bf16_bits(inputs))
        self._index.append(index.to(torch.int16).numpy())
        self._weights.append(weights.float().numpy())

    def run_experts(
        self, module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """What transformers' experts modules compute, expert by expert, adding up saliencies on the way."""
        choices = top_k_index.flatten()
        order = torch.argsort(choices, stable=True)
        ends = torch.bincount(choices, minlength=self.experts).cumsum(0).tolist()
        result = torch.zeros_like(hidden_states)
        for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start == end:
                continue
            places = order[start:end]
            tokens = places // top_k_index.shape[1]
            weights = top_k_weights.flatten()[places]
            output = expert_output(module, expert, hidden_states[tokens])
            self._saw(expert, output, weights)
            result.index_add_(0, tokens, (output * weights[:, None]).to(result.dtype))
        return result

    def _saw(self, expert: int, output: torch.Tensor, weights: torch.Tensor) -> None:
        norms = torch.linalg.vector_norm(output.float(), dim=1).double()
        self._sums["ean"][expert] += norms.sum()
        self._sums["sal_reap"][expert] += (norms * weights.double()).sum()
        largest = self._sums["act_max"]
        largest[expert] = torch.maximum(largest[expert], output.abs().max().double())

    def finish(self) -> dict[str, Array]:
        """Close the files and give the scalars by name."""
        for writer in (self._input, self._index, self._weights):
            writer.close()
        return {
            "count": self._coactivation.diagonal().numpy().copy(),
            "coactivation": self._coactivation.numpy(),
            "absmax_in": self._absmax.numpy(),
            **{name: values.numpy() for name, values in self._sums.items()},
        }


def expert_output(module: Any, expert: int, inputs: torch.Tensor) -> torch.Tensor:
    """Output `[n, H]` of one expert of a transformers experts module, whatever its orientation, bias and gate."""
    joined = "gate_up_proj" if module.has_gate else "up_proj"
    raised = _linear(module, joined, expert, inputs)
    middle = module._apply_gate(raised) if module.has_gate else module.act_fn(raised)
    output = _linear(module, "down_proj", expert, middle)
    return module.post_expert_norm(output) if module.has_post_expert_norm else output


def _linear(module: Any, name: str, expert: int, inputs: torch.Tensor) -> torch.Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(inputs, weight.mT if module.is_transposed else weight, bias)


@contextmanager
def experts_run_by(observer: ExpertObserver, module: Any) -> Iterator[None]:
    """While active, the experts `module` computes through `observer.run_experts`."""
    before = module.config._experts_implementation
    ALL_EXPERTS_FUNCTIONS[_IMPLEMENTATION] = observer.run_experts
    module.config._experts_implementation = _IMPLEMENTATION
    try:
        yield
    finally:
        module.config._experts_implementation = before
        ALL_EXPERTS_FUNCTIONS.pop(_IMPLEMENTATION)


class LinearObserver:
    """Grams of the inputs of linear layers, by name; layers that are given the very same input share one Gram."""

    def __init__(self, linears: Mapping[str, nn.Linear]) -> None:
        self._linears = linears
        self._leaders: dict[str, str] = {}
        self._grams: dict[str, GramSum] = {}
        self._seen: dict[tuple[object, ...], tuple[str, torch.Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While active, every call of the linear layers counts."""
        with ExitStack() as stack:
            for name, linear in self._linears.items():
                handle = linear.register_forward_pre_hook(lambda _, args, name=name: self._before(name, args[0]))
                stack.callback(handle.remove)
            yield

    def next_batch(self) -> None:
        """Forget which inputs were shared in the batch that just ran."""
        self._seen.clear()

    def _before(self, name: str, values: torch.Tensor) -> None:
        if name not in self._leaders:
            self._leaders[name] = self._leader(name, values)
        if self._leaders[name] == name:
            self._grams[name].add(values)

    def _leader(self, name: str, values: torch.Tensor) -> str:
        """The first layer that was given this very tensor. Tensors are kept so that no address is used twice."""
        key = (values.data_ptr(), values.shape, values.stride(), values._version)
        leader, _ = self._seen.setdefault(key, (name, values))
        if leader == name:
            self._grams[name] = GramSum(values.shape[-1])
        return leader

    def groups(self) -> dict[str, str]:
        """Name of each linear layer that ran → name under which its Gram is kept."""
        return dict(self._leaders)

    def grams(self) -> dict[str, torch.Tensor]:
        """The Grams by the names that `groups` gives."""
        return {name: total.mean() for name, total in self._grams.items()}
