"""Hooks that read an MoE block's routing off the calls transformers makes, for any family of the common contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from moecompress.core.errors import UnsupportedModelError

MoeCallback = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], None]
_ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")


@contextmanager
def capturing(experts: nn.Module, routers: Sequence[nn.Module], count: int, callback: MoeCallback) -> Iterator[None]:
    """Call `callback(router_input, top_k_index, top_k_weights, router_logits)` before each run of `experts`.

    `routers` are the modules that own the router's tensors; the logits are the first value with `count` columns that
    one of them returns, or None when none does.
    """
    logits: list[torch.Tensor] = []

    def after_router(module: nn.Module, args: Any, output: Any) -> None:
        values = output if isinstance(output, tuple | list) else (output,)
        logits.extend(value for value in values if _is_logits(value, count))

    def before_experts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        router_input, index, weights = _arguments(module, args, kwargs)
        callback(router_input, index, weights, logits[0] if logits else None)
        logits.clear()

    handles = [router.register_forward_hook(after_router) for router in dict.fromkeys(routers)]
    handles.append(experts.register_forward_pre_hook(before_experts, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_logits(value: Any, count: int) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[-1:] == (count,)


def _arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    if not all(isinstance(given.get(name), torch.Tensor) for name in _ARGUMENTS):
        raise UnsupportedModelError(
            f"{type(module).__name__} is not called with {', '.join(_ARGUMENTS)}, so its routing cannot be read."
        )
    return tuple(given[name] for name in _ARGUMENTS)
