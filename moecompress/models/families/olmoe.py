"""OLMoE: norms over whole queries and keys, router weights not normalised after the choice."""

from moecompress.models.families.base import Family

FAMILY = Family()
