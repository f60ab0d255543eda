"""A transformers model run one decoder layer at a time, with weights streamed in: peak memory is one layer.

The model is built on `meta` from transformers' own classes and its own forward is called, so masks, rotary embeddings,
layer types and scalings stay transformers'. Every decoder layer sits in a slot; all slots but one pass their input on,
and that one starts from the hidden states handed to it, whatever came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from moecompress.core.errors import CoverageError, UsageError
from moecompress.core.types import Projection
from moecompress.models.capture import MoeCallback, capturing
from moecompress.models.discover import ModelLayout, TrunkTensor
from moecompress.models.experts import split_gate_up
from moecompress.models.skeleton import Skeleton

ReadTrunk = Callable[[str], torch.Tensor]
ReadExpert = Callable[[int], Mapping[Projection, torch.Tensor]]


class _Slot(nn.Module):
    """Stands where a decoder layer stands; what the model asks the layer about, it asks the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)
        self.active = False
        self.given: torch.Tensor | None = None
        self.result: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "layer"), name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden = hidden_states if self.given is None else self.given
        if self.active:
            output = self.layer(hidden, *args, **kwargs)
            hidden = output[0] if isinstance(output, tuple) else output
        self.result = hidden
        return hidden


class _Passthrough(nn.Module):
    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


class LayerwiseModel:
    """One piece of a model resident at a time: the embedding, one decoder layer, or the head.

    `read_trunk(name)` gives a tensor by its checkpoint name, `read_expert(e)` one expert's canonical matrices. Values
    are computed in `dtype`, without gradients. Loading a piece unloads the one before.
    """

    def __init__(self, config: Mapping[str, Any], layout: ModelLayout, dtype: torch.dtype = torch.float32) -> None:
        self.layout = layout
        self._dtype = dtype
        self._skeleton = Skeleton(config, dtype)
        self._skeleton.check(layout)
        self._modules: dict[str, nn.Module] = dict(self._skeleton.model.named_modules())
        self._experts = {index: self._skeleton.experts_module(index) for index in layout.moe}
        self._after = self._modules_after_layers()
        self._slots = [_Slot(layer) for layer in self._skeleton.decoder_layers]
        for index, slot in enumerate(self._slots):
            self._skeleton.decoder_layers[index] = slot
        self._filled: list[tuple[nn.Module, str]] = []
        self._piece: int | str | None = None

    def load_embedding(self, read_trunk: ReadTrunk) -> None:
        """Make the token embedding resident."""
        self.unload()
        tensors = [tensor for tensor in self.layout.layer_trunk(None) if tensor.role in ("embedding", "other")]
        self._fill_trunk(tensors, read_trunk)
        self._piece = "embedding"

    def load_layer(self, index: int, read_trunk: ReadTrunk, read_expert: ReadExpert) -> None:
        """Make decoder layer `index` resident. Raises CoverageError when a parameter of it stays empty."""
        self.unload()
        self._fill_trunk(self.layout.layer_trunk(index), read_trunk)
        if index in self.layout.moe:
            self._fill_experts(index, read_expert)
        for name, parameter in self._slots[index].layer.named_parameters():
            if parameter.is_meta:
                raise CoverageError(f"Nothing fills {name!r} of decoder layer {index}; its values would be undefined.")
        self._piece = index

    def load_head(self, read_trunk: ReadTrunk) -> None:
        """Make the final norm and the head resident; a tied head reads the embedding's tensor."""
        self.unload()
        outside = self.layout.layer_trunk(None)
        self._fill_trunk([tensor for tensor in outside if tensor.role != "embedding"], read_trunk)
        present = {self._skeleton.place(tensor.name): tensor for tensor in outside}
        for target, shared in self._skeleton.tied.items():
            if target not in present and shared in present:
                self._fill(target, read_trunk(present[shared].name))
        self._piece = "head"

    def unload(self) -> None:
        """Drop what is resident."""
        for module, name in self._filled:
            _assign(module, name, torch.empty_like(getattr(module, name), device="meta"))
        self._filled = []
        self._piece = None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids [N, S]` → the hidden states `[N, S, H]` that enter layer 0."""
        self._require("embedding")
        with self._slot(0, None, active=False) as slot:
            self._run_base(input_ids=ids.long())
            return _result(slot)

    def run_layer(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states `[N, S, H]` through the resident layer; rows are independent sequences from position 0."""
        if not isinstance(self._piece, int):
            raise UsageError(f"run_layer needs a resident decoder layer; resident is {self._resident}.")
        hidden = hidden.to(self._dtype)
        with self._slot(self._piece, hidden, active=True) as slot:
            self._run_base(inputs_embeds=hidden)
            return _result(slot)

    def layer_gradient(self, hidden: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """d(loss)/d(what enters the resident layer) from d(loss)/d(what leaves it), both `[N, S, H]`.

        `hidden` is what enters; the layer is run again, with gradients, for this batch.
        """
        if not isinstance(self._piece, int):
            raise UsageError(f"layer_gradient needs a resident decoder layer; resident is {self._resident}.")
        hidden = hidden.to(self._dtype).requires_grad_()
        with self._slot(self._piece, hidden, active=True) as slot, torch.enable_grad():
            self._run_base(grad=True, inputs_embeds=hidden)
            (entering,) = torch.autograd.grad(_result(slot), hidden, gradient.to(self._dtype))
        return entering

    def head_gradient(self, hidden: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """d(loss(logits))/d(hidden states that left the last layer), `[N, S, H]`; `loss` sums over everything."""
        self._require("head")
        hidden = hidden.to(self._dtype).requires_grad_()
        with self._slot(len(self._slots) - 1, hidden, active=False), torch.enable_grad():
            logits = self._skeleton.model(inputs_embeds=hidden, use_cache=False).logits
            (entering,) = torch.autograd.grad(loss(logits), hidden)
        return entering

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states `[N, S, H]` that left the last layer → logits `[N, S, V]`."""
        self._require("head")
        hidden = hidden.to(self._dtype)
        with self._slot(len(self._slots) - 1, hidden, active=False), torch.no_grad():
            logits: torch.Tensor = self._skeleton.model(inputs_embeds=hidden, use_cache=False).logits
            return logits

    @contextmanager
    def capture_moe(self, callback: MoeCallback) -> Iterator[None]:
        """While active, the callback is told of each run of the resident layer's experts, before it happens.

        It gets router_input `[T, H]`, top_k_index and top_k_weights `[T, K]` (the weights as used, after any
        normalisation and scaling) and router_logits `[T, E]` or None; T runs over N then S. Never for a dense layer.
        """
        if not isinstance(self._piece, int):
            raise UsageError(f"capture_moe needs a resident decoder layer; resident is {self._resident}.")
        if self._piece not in self.layout.moe:
            yield
            return
        moe = self.layout.moe[self._piece]
        routers = [self._owner(place) for name in moe.router if (place := self._skeleton.place(name))]
        with capturing(self._experts[self._piece], routers, moe.experts, callback):
            yield

    def module_of(self, name: str) -> nn.Module:
        """The module that holds a checkpoint tensor outside the experts. Raises CoverageError for other names."""
        place = self._skeleton.place(name)
        if place is None:
            raise CoverageError(f"The model has no place for the tensor {name!r}.")
        return self._owner(place)

    def experts_module(self, index: int) -> nn.Module:
        """The module that holds a layer's routed experts. Raises UsageError for a dense layer."""
        if index not in self._experts:
            raise UsageError(f"Decoder layer {index} has no routed experts.")
        return self._experts[index]

    @property
    def _resident(self) -> str:
        if self._piece is None:
            return "nothing"
        return f"decoder layer {self._piece}" if isinstance(self._piece, int) else f"the {self._piece}"

    def _modules_after_layers(self) -> dict[str, nn.Module]:
        embedding, layers = self._skeleton.model.get_input_embeddings(), self._skeleton.decoder_layers
        return {
            name: child
            for name, child in self._skeleton.base.named_children()
            if child is not embedding and child is not layers and any(True for _ in child.parameters())
        }

    def _run_base(self, grad: bool = False, **inputs: torch.Tensor) -> None:
        """The forward below the head, with everything after the layers passed through."""
        base = self._skeleton.base
        for name in self._after:
            setattr(base, name, _Passthrough())
        try:
            with torch.set_grad_enabled(grad):
                base(**inputs, use_cache=False)
        finally:
            for name, module in self._after.items():
                setattr(base, name, module)

    @contextmanager
    def _slot(self, index: int, given: torch.Tensor | None, active: bool) -> Iterator[_Slot]:
        slot = self._slots[index]
        slot.given, slot.active = given, active
        try:
            yield slot
        finally:
            slot.active = False
            for other in self._slots:
                other.given = other.result = None

    def _require(self, piece: str) -> None:
        if self._piece != piece:
            raise UsageError(f"The {piece} is not resident (resident is {self._resident}); load it first.")

    def _fill_trunk(self, tensors: Iterable[TrunkTensor], read_trunk: ReadTrunk) -> None:
        for tensor in tensors:
            place = self._skeleton.place(tensor.name)
            if place is None:
                raise CoverageError(f"The model has no place for the tensor {tensor.name!r}.")
            self._fill(place, read_trunk(tensor.name))

    def _fill_experts(self, index: int, read_expert: ReadExpert) -> None:
        module, moe = self._experts[index], self.layout.moe[index]
        shapes = {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}
        stacks = {name: torch.empty(shape, dtype=self._dtype) for name, shape in shapes.items()}
        for expert in range(moe.experts):
            matrices = read_expert(expert)
            for projection, target in _targets(module, stacks, expert).items():
                if projection not in matrices or matrices[projection].shape != target.shape:
                    raise CoverageError(
                        f"The {projection} matrix of expert {expert} of decoder layer {index} is missing or not of the "
                        f"shape {list(target.shape)}."
                    )
                target.copy_(matrices[projection])
        for name, stack in stacks.items():
            self._put(module, name, stack)

    def _fill(self, place: str, value: torch.Tensor) -> None:
        self._put(self._owner(place), place.rpartition(".")[2], value)

    def _put(self, module: nn.Module, name: str, value: torch.Tensor) -> None:
        expected = tuple(getattr(module, name).shape)
        if tuple(value.shape) != expected:
            raise CoverageError(f"{name!r} was given the shape {list(value.shape)}; the model needs {list(expected)}.")
        _assign(module, name, value.to(self._dtype) if value.is_floating_point() else value)
        self._filled.append((module, name))

    def _owner(self, place: str) -> nn.Module:
        return self._modules[place.rpartition(".")[0]]


def _assign(module: nn.Module, name: str, value: torch.Tensor) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)


def _targets(module: Any, stacks: Mapping[str, torch.Tensor], expert: int) -> dict[Projection, torch.Tensor]:
    """Views `[out, in]` of the stacked parameters into which one expert's matrices go."""
    oriented = {name: stack[expert].mT if module.is_transposed else stack[expert] for name, stack in stacks.items()}
    targets: dict[Projection, torch.Tensor] = {"down": oriented["down_proj"]}
    if module.has_gate:
        targets["gate"], targets["up"] = split_gate_up(oriented["gate_up_proj"], not module.is_concatenated)
    else:
        targets["up"] = oriented["up_proj"]
    return targets


def _result(slot: _Slot) -> torch.Tensor:
    if slot.result is None:
        raise CoverageError("The model's forward never reached the decoder layer that was asked for.")
    return slot.result
