"""The model's own tokenizer, with the few limits of the model that text must respect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moecompress.core.errors import CalibrationError


@dataclass(frozen=True)
class TextEncoder:
    """Text to token ids for one model: its tokenizer, its context length and vocabulary size (None: not stated)."""

    tokenizer: PreTrainedTokenizerBase
    context: int | None = None
    vocabulary: int | None = None

    @classmethod
    def open(cls, folder: Path, config: Mapping[str, Any]) -> TextEncoder:
        """The encoder of a checkpoint folder whose `config.json` content is `config`. Raises CalibrationError."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise CalibrationError(
                f"The tokenizer of {folder} could not be loaded: {error} "
                "Text is encoded with the model's own tokenizer; add its tokenizer.json to the folder."
            ) from error
        values = config.get("text_config") or config
        return cls(tokenizer, values.get("max_position_embeddings"), values.get("vocab_size"))

    @property
    def separator(self) -> list[int]:
        """What stands between two texts: the end-of-text token, or nothing when the tokenizer has none."""
        end = self.tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens added. Raises CalibrationError for ids the model has not."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        largest = max((max(row) for row in ids if row), default=0)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise CalibrationError(
                f"The tokenizer gave id {largest}, but the model's vocabulary has {self.vocabulary} entries. "
                "The tokenizer in the folder belongs to another model; replace it."
            )
        return ids

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as text, through the model's chat template. Raises CalibrationError when it has none."""
        if not self.tokenizer.chat_template:
            raise CalibrationError(
                "Chat rows need a chat template, and the model's tokenizer has none. "
                "Add chat_template.jinja to the model's folder, or use kind: jsonl with a text column."
            )
        return str(self.tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False))

    def check_length(self, length: int, option: str) -> None:
        """Raises CalibrationError when sequences of `length` tokens exceed the model's context."""
        if self.context is not None and length > self.context:
            raise CalibrationError(
                f"{option} is {length}, but the model's context is {self.context} tokens. "
                f"Set {option} to {self.context} or less."
            )
