"""One MoE block: which row of the layout table its tensors follow, and what the config says about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from moecompress.core.errors import SourceError, UnsupportedModelError
from moecompress.core.types import MoeLayer
from moecompress.models.families.base import Family
from moecompress.models.layouts import Template, expert_name, is_expert_name

Headers = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

WEIGHT_TYPES = (torch.bfloat16, torch.float16, torch.float32)
EXPERT_KEYS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
TOP_K_KEYS = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token")
WIDTH_KEYS = ("moe_intermediate_size", "intermediate_size")


def config_value(config: Any, keys: tuple[str, ...]) -> int:
    """The value of the first key a transformers config has; families name the same thing differently."""
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, int):
            return value
    raise SourceError(f"The config has none of {', '.join(keys)}, which a Mixture-of-Experts model needs.")


def fitting_template(path: str, candidates: Iterable[Template], headers: Headers, config: Any) -> Template:
    """The first candidate whose every tensor is there with the shape the config asks for.

    Raises SourceError or UnsupportedModelError with what is wrong with the first candidate when none fits.
    """
    problems = []
    for template in candidates:
        problem = _misfit(path, template, headers, config)
        if problem is None:
            return template
        problems.append(problem)
    raise problems[0]


def _misfit(path: str, template: Template, headers: Headers, config: Any) -> SourceError | None:
    layout = template.layout(path)
    experts, width = config_value(config, EXPERT_KEYS), config_value(config, WIDTH_KEYS)
    for part in layout.names:
        expected = template.shape(part, experts, config.hidden_size, width)
        for expert in range(1 if layout.stacked else experts):
            name = expert_name(layout, part, expert)
            if name not in headers:
                return SourceError(f"The checkpoint has no tensor {name!r}; the config has {experts} experts a layer.")
            shape, dtype = headers[name]
            if shape != expected:
                return SourceError(
                    f"{name!r} has the shape {list(shape)}, but {experts} experts of width {width} on hidden size "
                    f"{config.hidden_size}, as the config says, need {list(expected)}."
                )
            if dtype not in WEIGHT_TYPES:
                return UnsupportedModelError(f"{name!r} has the type {dtype}; bf16, f16 and f32 are read.")
    surplus = expert_name(layout, "down", experts)
    if not layout.stacked and surplus in headers:
        return SourceError(f"{surplus!r} is there, but the config has only {experts} experts a layer.")
    return None


def describe(index: int, path: str, template: Template, headers: Headers, config: Any, family: Family) -> MoeLayer:
    """The MoE block at `path`: its router is every tensor in it, beside experts and shared experts, with E rows."""
    experts = config_value(config, EXPERT_KEYS)
    inside = sorted(name for name in headers if name.startswith(path + ".") and not is_expert_name(name))
    shared = tuple(name for name in inside if name.startswith(path + ".shared"))
    router = tuple(name for name in inside if name not in shared and _leads(headers[name][0], experts))
    if not router:
        raise UnsupportedModelError(f"{path} has no router: no tensor beside its experts has {experts} rows.")
    return MoeLayer(
        index=index,
        path=path,
        experts=experts,
        top_k=config_value(config, TOP_K_KEYS),
        hidden=config.hidden_size,
        width=config_value(config, WIDTH_KEYS),
        layout=template.layout(path),
        router=router,
        shared=shared,
        activation=family.activation(config),
        groups=family.groups(config),
    )


def _leads(shape: tuple[int, ...], experts: int) -> bool:
    return shape[:1] == (experts,) or shape == (1, experts)
