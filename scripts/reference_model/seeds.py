"""Random generators, one for each use, all derived from the build's seed."""

from __future__ import annotations

import torch

from .stage import digest


def generator(seed: int, *purpose: str) -> torch.Generator:
    """A generator that depends on the seed and on the purpose alone."""
    return torch.Generator().manual_seed(int(digest([seed, *purpose])[:15], 16))
