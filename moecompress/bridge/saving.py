"""What transformers may not do with a model whose experts live in an artifact."""

from __future__ import annotations

from typing import NoReturn

from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from moecompress.core.errors import UsageError


class ArtifactQuantizer(HfQuantizer):
    """transformers' own word on models that are not their parameters: asked before saving and dequantising.

    As `model.hf_quantizer` it makes `save_pretrained` and `dequantize` refuse, and keeps `generate` from compiling.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(QuantizationConfigMixin(quant_method="moecompress"))  # type: ignore[arg-type]
        self._folder = folder

    def is_serializable(self) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(
            "This model cannot be saved: its experts are not parameters but come from the artifact "
            f"{self._folder}. Copy that folder instead."
        )

    @property
    def is_trainable(self) -> bool:
        """Never."""
        return False

    def _dequantize(self, model: object, dtype: object = None) -> NoReturn:
        raise UsageError(
            "This model cannot be dequantised in memory: its experts come from the artifact "
            f"{self._folder}, record by record."
        )
