"""The `calibration` block of a recipe: which text, how much of it, cut how.

    calibration: {source: builtin, tokens: 131072, sequence_length: 1024, seed: 0}

A source is `builtin` (text every Python carries), a local file or folder, or the id of a dataset on the hub. Several
weighted sources go under `sources` instead of `source`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["auto", "text", "jsonl", "parquet", "chat"]
BUILTIN = "builtin"


class TextSource(BaseModel):
    """One place that text comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, description="`builtin`, a local file or folder, or a hub dataset id (owner/name)")
    kind: Kind = Field("auto", description="what the files hold; auto goes by file name and columns")
    text_field: str | None = Field(None, description="column of the text (default: text, or messages for chat)")
    split: str | None = Field(None, description="datasets split such as train[:512]; for builtin: calibration or train")
    weight: float = Field(1.0, gt=0, description="share of the sequences, relative to the other sources")

    @model_validator(mode="after")
    def _keep_heldout_apart(self) -> Self:
        if self.path == BUILTIN and self.split not in (None, "calibration", "train"):
            raise ValueError(
                f"split {self.split!r} of the builtin text cannot calibrate; use calibration or train. "
                "heldout is kept for evaluation."
            )
        return self


class CalibrationOptions(BaseModel):
    """Text that statistics are collected on: `tokens` tokens in sequences of `sequence_length`, chosen by `seed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(BUILTIN, min_length=1, description="`builtin`, a local file or folder, or a hub dataset id")
    kind: Kind = Field("auto", description="what the files of `source` hold; auto goes by file name and columns")
    text_field: str | None = Field(None, description="column of the text (default: text, or messages for chat)")
    split: str | None = Field(None, description="datasets split such as train[:512]; for builtin: calibration or train")
    sources: tuple[TextSource, ...] = Field((), description="several weighted sources, instead of `source`")
    tokens: int = Field(131072, gt=0, description="tokens in all, rounded down to whole sequences")
    sequence_length: int = Field(1024, gt=1, description="tokens per sequence, at most the model's context")
    seed: int = Field(0, ge=0, description="chooses the pieces of text and their order")
    gradient_tokens: int = Field(
        16384, gt=0, description="tokens, of the first sequences, whose output gradients are taken if a pass needs them"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokens < self.sequence_length:
            raise ValueError(
                f"tokens ({self.tokens}) is less than one sequence ({self.sequence_length}); "
                "raise tokens or lower sequence_length."
            )
        single = {"source", "kind", "text_field", "split"} & self.model_fields_set
        if self.sources and single:
            raise ValueError(f"give either sources or {', '.join(sorted(single))}, not both.")
        self.text_sources()
        return self

    def text_sources(self) -> tuple[TextSource, ...]:
        """The sources as a list, also when only one is given by `source`."""
        if self.sources:
            return self.sources
        return (TextSource(path=self.source, kind=self.kind, text_field=self.text_field, split=self.split),)

    def paths(self) -> tuple[str, ...]:
        """Every source's path that is not the builtin text."""
        return tuple(source.path for source in self.text_sources() if source.path != BUILTIN)
