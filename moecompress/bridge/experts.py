"""Experts modules of transformers that hold no weights: which of them can be served, and how they are handed over.

transformers runs an experts module by the function that its registry of experts implementations has under the config's
`_experts_implementation`. Ours is called `moecompress` and passes the call on to the layer's ServedLayer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moecompress.artifact.manifest import ExpertLayer, Manifest
from moecompress.bridge.server import ExpertServer, ServedLayer
from moecompress.core.errors import ArtifactError, UnsupportedModelError, UsageError
from moecompress.models.experts import join_gate_up
from moecompress.models.skeleton import Skeleton
from moecompress.runtime.results import StoreStats

IMPLEMENTATION = "moecompress"
_SERVED = "served_layer"
_PARAMETERS = {"gate_up_proj", "down_proj"}
_FLAGS = {
    "has_gate": (True, "have no gate"),
    "has_bias": (False, "have biases"),
    "has_post_expert_norm": (False, "normalise their output"),
}


def run_experts(
    experts: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """What the registry calls in place of an experts module's own forward. Raises UsageError for a foreign module."""
    served = getattr(experts, _SERVED, None)
    if not isinstance(served, ServedLayer):
        raise UsageError(
            f"This {type(experts).__name__} was not loaded from an artifact, so the experts implementation "
            f"{IMPLEMENTATION!r} has nothing to run. Load the model with moecompress.load_transformers."
        )
    return served.run(hidden_states, top_k_index, top_k_weights)


def experts_modules(skeleton: Skeleton, manifest: Manifest) -> dict[int, nn.Module]:
    """Decoder layer → its experts module, for every layer with experts.

    Raises UnsupportedModelError, naming family and reason, when an artifact's experts cannot take the place of the
    model's own, and ArtifactError when the artifact does not fit its config.
    """
    tables = {layer.layer: layer for layer in manifest.experts}
    if not tables:
        raise ArtifactError("The artifact holds no experts, so there is nothing to serve.")
    modules = {index: _module(skeleton, index) for index in tables}
    for index in range(skeleton.layers):
        if index not in tables and skeleton.experts_path(index) is not None:
            raise ArtifactError(f"The artifact has no experts for decoder layer {index}, but its config asks for some.")
    for index, module in modules.items():
        if reason := _refusal(module) or _misfit(module, tables[index]):
            raise UnsupportedModelError(
                f"load_transformers cannot run this {skeleton.config.model_type!r} model: the experts of decoder layer "
                f"{index} ({type(module).__name__}) {reason}."
            )
    return modules


def serve(model: Any, modules: Mapping[int, nn.Module], server: ExpertServer) -> None:
    """Empty the experts modules of a model and run them from the server.

    Their parameters keep their names and have no elements, so that moving, counting and listing them goes on working.
    """
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, run_experts)
    model.set_experts_implementation(IMPLEMENTATION)
    for index, module in modules.items():
        for name, parameter in list(module.named_parameters()):
            empty = torch.empty((0, *parameter.shape[1:]), dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
        setattr(module, _SERVED, server.layer(index))


def store_stats(model: nn.Module) -> StoreStats:
    """Traffic of the expert store behind a model of `load_transformers`. Raises UsageError for any other model."""
    for module in model.modules():
        if isinstance(served := getattr(module, _SERVED, None), ServedLayer):
            return served.server.stats()
    raise UsageError(f"This {type(model).__name__} was not loaded with moecompress.load_transformers.")


def _module(skeleton: Skeleton, index: int) -> nn.Module:
    if index >= skeleton.layers:
        raise ArtifactError(
            f"The artifact has experts for decoder layer {index} of a model of {skeleton.layers} layers."
        )
    if skeleton.experts_path(index) is None:
        raise UnsupportedModelError(
            f"load_transformers cannot run this {skeleton.config.model_type!r} model: transformers does not run the "
            f"experts of decoder layer {index} through its registry of experts implementations."
        )
    return skeleton.experts_module(index)


def _refusal(module: nn.Module) -> str | None:
    """Why the kernels cannot compute what this module computes, or None."""
    for flag, (needed, reason) in _FLAGS.items():
        if getattr(module, flag, needed) != needed:
            return reason
    others = sorted({name for name, _ in module.named_parameters()} - _PARAMETERS)
    if others:
        return f"have a parameter {others[0]!r} besides {' and '.join(sorted(_PARAMETERS))}"
    return None if _is_silu_gated(module) else "compute something other than silu(gate) · up"


def _is_silu_gated(module: Any) -> bool:
    """Whether `_apply_gate` is silu(gate) · up, tried on values from very small to very large."""
    width = module.gate_up_proj.shape[2 if module.is_transposed else 1] // 2
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-3, 4, 64)[:, None]
    gate, up = (scale * torch.randn((64, width), generator=generator) for _ in range(2))
    found = module._apply_gate(join_gate_up(gate.mT, up.mT, not module.is_concatenated).mT)
    wanted = silu(gate) * up
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


def _misfit(module: Any, table: ExpertLayer) -> str | None:
    experts, rows, columns = module.down_proj.shape
    hidden = columns if module.is_transposed else rows
    if len(table.experts) != experts:
        return f"number {len(table.experts)} in the artifact and {experts} in its config"
    found = table.experts[0].projections["down"].shape[0]
    if found != hidden:
        return f"take vectors of {found} elements in the artifact and of {hidden} in its config"
    without = [index for index, expert in enumerate(table.experts) if "gate" not in expert.projections]
    return f"have no gate in the artifact (expert {without[0]})" if without else None
