"""The transformers model of a config without weights: all parameters on `meta`, only small computed buffers are real.

It tells which parameters a checkpoint must fill and under which names, so nothing is taken on trust from tensor names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.initialization import no_init_weights

from moecompress.core.errors import CoverageError, SourceError, UnsupportedModelError
from moecompress.models.layouts import layer_of
from moecompress.models.moe import WEIGHT_TYPES

if TYPE_CHECKING:
    from moecompress.models.discover import ModelLayout, TrunkTensor


def config_object(config: Mapping[str, Any]) -> Any:
    """The transformers config of a config.json. Raises UnsupportedModelError or SourceError."""
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"transformers knows no family {model_type!r}; a checkpoint's own code is never run."
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(config))
    except Exception as error:
        raise SourceError(f"transformers cannot read this config.json of {model_type!r}: {error}") from error


class Skeleton:
    """A causal language model on `meta`.

    `model` is transformers' own class, `base` the part below the head, `decoder_layers` its list of layers.
    """

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self.config = config_object(config)
        self.text_config = self.config.get_text_config()
        self.model = _build(self.config, dtype)
        self.base = getattr(self.model, self.model.base_model_prefix)
        self.layers = int(self.text_config.num_hidden_layers)

    @cached_property
    def decoder_layers(self) -> nn.ModuleList:
        """The list of decoder layers."""
        for child in self.base.children():
            if isinstance(child, nn.ModuleList) and len(child) == self.layers:
                return child
        raise UnsupportedModelError(f"{type(self.base).__name__} has no list of {self.layers} decoder layers.")

    @cached_property
    def parameters(self) -> dict[str, torch.Tensor]:
        """In-memory name → empty tensor of everything a checkpoint fills: parameters and persistent buffers."""
        return dict(self.model.state_dict())

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """In-memory names that may be absent on disk → the name whose tensor they share."""
        return dict(self.model.all_tied_weights_keys)

    @cached_property
    def _renamings(self) -> list[WeightRenaming]:
        found = get_model_conversion_mapping(self.model, add_legacy=False)
        return [rule for rule in found if isinstance(rule, WeightRenaming)]

    def place(self, name: str) -> str | None:
        """The in-memory name of a checkpoint tensor, or None when the model has no place for it."""
        if name in self.parameters:
            return name
        for rule in self._renamings:
            name = str(rule.rename_source_key(name)[0])
        return name if name in self.parameters else None

    def experts_path(self, layer: int) -> str | None:
        """Path, below its decoder layer, of the module that holds a layer's stacked experts; None for a dense layer."""
        for name, module in self.decoder_layers[layer].named_modules():
            if hasattr(module, "is_transposed") and hasattr(module, "down_proj"):
                return str(name)
        return None

    def experts_module(self, layer: int) -> nn.Module:
        """The module at `experts_path`. Raises UnsupportedModelError for a layer without one."""
        path = self.experts_path(layer)
        if path is None:
            raise UnsupportedModelError(f"Decoder layer {layer} of {type(self.model).__name__} has no experts module.")
        return self.decoder_layers[layer].get_submodule(path)

    def block_path(self, layer: int) -> str:
        """In-memory path, from the model down, of the module that holds a layer's experts module."""
        experts = self.experts_module(layer)
        path = next(name for name, module in self.model.named_modules() if module is experts)
        return str(path.rpartition(".")[0])

    def check(self, layout: ModelLayout) -> None:
        """Every trunk tensor has its own place of its own shape, every place is filled, MoE layers agree.

        Raises CoverageError for a tensor without a place, SourceError for a place without a tensor,
        UnsupportedModelError for a type that no weight may have.
        """
        places = dict(self.parameters)
        for layer in range(self.layers):
            self._take_experts(layout, layer, places)
        for tensor in layout.trunk:
            place = self.place(tensor.name)
            if place is None or place not in places:
                raise CoverageError(
                    f"{type(self.model).__name__} has no place for the tensor {tensor.name!r}; using the checkpoint "
                    "without it could change its meaning."
                )
            _check_tensor(tensor, places.pop(place))
        missing = sorted(place for place in places if place not in self.tied)
        if missing:
            raise SourceError(f"The checkpoint has no tensor for {missing[0]!r} ({len(missing)} missing in all).")

    def _take_experts(self, layout: ModelLayout, layer: int, places: dict[str, torch.Tensor]) -> None:
        path = self.experts_path(layer)
        if (path is not None) != (layer in layout.moe):
            has = "has routed experts" if path is not None else "is dense"
            raise SourceError(f"Decoder layer {layer} {has} according to the config, but not in the tensors.")
        if path is not None:
            for place in [place for place in places if layer_of(place) == layer and f".{path}." in place]:
                del places[place]


def _check_tensor(tensor: TrunkTensor, place: torch.Tensor) -> None:
    if tensor.shape != tuple(place.shape):
        raise SourceError(
            f"{tensor.name!r} has the shape {list(tensor.shape)}, not {list(place.shape)} as the config says."
        )
    if place.is_floating_point() and tensor.dtype not in WEIGHT_TYPES:
        raise UnsupportedModelError(f"{tensor.name!r} has the type {tensor.dtype}; bf16, f16 and f32 are read.")


def _build(config: Any, dtype: torch.dtype) -> Any:
    with init_empty_weights(include_buffers=False), no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, experts_implementation="eager", trust_remote_code=False
        )
    model.config.output_router_logits = False
    return model.eval().requires_grad_(False)
