"""Qwen3-MoE: per-head norms on queries and keys, no shared expert."""

from moecompress.models.families.base import Family

FAMILY = Family()
