"""Text to token ids and back, and the chat template: the tokenizer files of an artifact through `tokenizers`.

Templates come with the model, so they run in jinja2's immutable sandbox: no attribute of a Python object that is not
plain data can be reached, and nothing can be changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moecompress.core.errors import ArtifactError, RequestError
from moecompress.runtime.text import TextStream

TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
TEMPLATE, SPECIAL = "chat_template.jinja", "special_tokens_map.json"


@dataclass(frozen=True)
class TokenizerFiles:
    """The files by content; `config` is the model's config.json."""

    tokenizer: bytes
    settings: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None


def parse_json(data: bytes, name: str) -> Mapping[str, Any]:
    """The mapping in a small JSON file. Raises ArtifactError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} of the artifact is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{name} of the artifact must hold a JSON object, not {type(value).__name__}.")
    return value


class Tokenizer:
    """One artifact's tokenizer. `end_ids` are the tokens that end a text."""

    def __init__(self, files: TokenizerFiles) -> None:
        import tokenizers

        self._files = files
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(files.tokenizer)
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{TOKENIZER} of the artifact cannot be used: {str(error)[:300]}.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.end_ids = frozenset(_end_ids(files) | self._ids_named("eos_token"))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a text, such as a beginning-of-text token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        first = self._ids_named("bos_token")
        if special and self._files.settings.get("add_bos_token") is True and first and not first & set(ids[:1]):
            return [*first, *ids]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, prompt: Sequence[int]) -> TextStream:
        """Text of tokens to come after a prompt."""
        return TextStream(self.decode, prompt)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> list[int]:
        """Token ids of a conversation by the model's chat template; `answer` opens the model's turn."""
        return self.encode(self.render(messages, answer=answer), special=False)

    @property
    def template(self) -> str | None:
        """The model's chat template, None when it has none."""
        return self._files.template or _default_template(self._files.settings)

    def render(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """The conversation as text. Raises RequestError when the model has no template or the template refuses it."""
        from moecompress.runtime.template import render

        if self.template is None:
            raise RequestError("This model has no chat template; give a plain prompt instead of messages.")
        names = {name: self._name_of(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        tokens = {name: text for name, text in names.items() if text is not None}
        return render(self.template, {"messages": list(messages), "add_generation_prompt": answer, **tokens})

    def _ids_named(self, name: str) -> set[int]:
        text = self._name_of(name)
        found = None if text is None else self._tokenizer.token_to_id(text)
        return set() if found is None else {found}

    def _name_of(self, name: str) -> str | None:
        value = self._files.settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        return text if isinstance(text, str) else None


def _end_ids(files: TokenizerFiles) -> set[int]:
    """Of generation_config.json, or else of config.json."""
    value = files.generation.get("eos_token_id", files.config.get("eos_token_id"))
    values = value if isinstance(value, list) else [value]
    return {item for item in values if isinstance(item, int) and not isinstance(item, bool)}


def _default_template(settings: Mapping[str, Any]) -> str | None:
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict) and item.get("name") == "default"]
        value = named[-1].get("template") if named else None
    return value if isinstance(value, str) else None
