"""The recorder of one decoder layer: attaches the observers to the resident layer and writes what they saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from moecompress.calibration.observe import ExpertObserver, LinearObserver, experts_run_by
from moecompress.calibration.statistics import DESCRIPTION, SCALARS, TRUNK
from moecompress.core.types import Activation
from moecompress.models.execute import LayerwiseModel


class LayerRecorder:
    """Records the layer that is resident in `model` over `tokens` tokens, into the new folder `folder`."""

    def __init__(self, model: LayerwiseModel, layer: int, tokens: int, folder: Path) -> None:
        self._model = model
        self._layer = layer
        self._tokens = tokens
        self._folder = folder
        self._moe = model.layout.moe.get(layer)
        self._experts = ExpertObserver(self._moe, tokens, folder)
        self._linears = LinearObserver(_linear_layers(model, layer))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While active, everything that goes through the layer is recorded."""
        with ExitStack() as stack:
            stack.enter_context(self._linears.watching())
            if self._moe is not None:
                stack.enter_context(self._model.capture_moe(self._experts.routed))
                stack.enter_context(experts_run_by(self._experts, self._model.experts_module(self._layer)))
            yield

    def next_batch(self) -> None:
        """A batch is through the layer."""
        self._linears.next_batch()

    def write(self) -> None:
        """Write what `LayerStatistics.load` reads."""
        scalars = self._experts.finish()
        described = {
            "layer": self._layer,
            "tokens": self._tokens,
            "activation": asdict(self._moe.activation if self._moe else Activation()),
            "trunk_groups": self._linears.groups(),
        }
        _write(self._folder / SCALARS, arrays_to_bytes(scalars))
        _write(self._folder / TRUNK, tensors_to_bytes(self._linears.grams()))
        _write(self._folder / DESCRIPTION, json.dumps(described, indent=1, sort_keys=True).encode())


def _linear_layers(model: LayerwiseModel, layer: int) -> dict[str, nn.Linear]:
    """Checkpoint name of its weight → module, for every linear layer of a decoder layer outside the routed experts."""
    modules = {tensor.name: model.module_of(tensor.name) for tensor in model.layout.layer_trunk(layer)}
    return {
        name: module for name, module in modules.items() if isinstance(module, nn.Linear) and name.endswith(".weight")
    }


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
