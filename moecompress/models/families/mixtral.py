"""Mixtral: w1/w3/w2 on disk, in a block called `block_sparse_moe` there and `mlp` in memory."""

from moecompress.models.families.base import Family

FAMILY = Family()
