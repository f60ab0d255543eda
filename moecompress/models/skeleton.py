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

from moecompress.core.errors import CoverageError, SourceError, UnsupportedModelError
from moecompress.models.layouts import layer_of

if TYPE_CHECKING:
    from moecompress.models.discover import ModelLayout


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
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """In-memory name → shape of everything a checkpoint fills: parameters and persistent buffers."""
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

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

    def check(self, layout: ModelLayout) -> None:
        """Every trunk tensor has its own place of its own shape, every place is filled, MoE layers agree.

        Raises CoverageError for a tensor without a place, SourceError for a place without a tensor.
        """
        open_places = dict(self.parameters)
        for layer in range(self.layers):
            self._check_experts(layout, layer, open_places)
        for tensor in layout.trunk:
            place = self.place(tensor.name)
            if place is None or place not in open_places:
                raise CoverageError(
                    f"{type(self.model).__name__} has no place for the tensor {tensor.name!r}; using the checkpoint "
                    "without it could change its meaning."
                )
            if (shape := open_places.pop(place)) != tensor.shape:
                raise SourceError(
                    f"{tensor.name!r} has the shape {list(tensor.shape)}, not {list(shape)} as the config says."
                )
        missing = sorted(place for place in open_places if place not in self.tied)
        if missing:
            raise SourceError(f"The checkpoint has no tensor for {missing[0]!r} ({len(missing)} missing in all).")

    def _check_experts(self, layout: ModelLayout, layer: int, open_places: dict[str, tuple[int, ...]]) -> None:
        path = self.experts_path(layer)
        if (path is not None) != (layer in layout.moe):
            has = "has routed experts" if path is not None else "is dense"
            raise SourceError(f"Decoder layer {layer} {has} according to the config, but not in the tensors.")
        if path is not None:
            for place in [place for place in open_places if layer_of(place) == layer and f".{path}." in place]:
                del open_places[place]


def _build(config: Any, dtype: torch.dtype) -> Any:
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation="sdpa", experts_implementation="eager", trust_remote_code=False
        )
    model.config.output_router_logits = False
    return model.eval().requires_grad_(False)
