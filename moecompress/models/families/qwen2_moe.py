"""Qwen1.5-MoE and Qwen2-MoE: a sigmoid-gated shared expert beside the routed ones, biases on q, k and v."""

from moecompress.models.families.base import Family

FAMILY = Family()
