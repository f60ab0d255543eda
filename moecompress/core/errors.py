"""One tree of errors. Each message is a sentence: what, where, which value, what is allowed, what to do.

`exit_code` is what the command line returns: 1 for work that failed, 2 for a request that could never work.
"""

from __future__ import annotations


class MoecompressError(Exception):
    """Base of every error a user can meet."""

    exit_code = 1


class UsageError(MoecompressError):
    """A command, option or argument that cannot be carried out as written."""

    exit_code = 2


class RecipeError(MoecompressError):
    """A recipe that is not valid: the message names file, line, key and the nearest valid spelling."""

    exit_code = 2


class OptionError(RecipeError):
    """An option of a pass that this model cannot meet. `key` is its path below the pass; the pipeline adds the line."""

    def __init__(self, message: str, key: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


class SourceError(MoecompressError):
    """A checkpoint that cannot be read: missing or truncated shard, bad index, NaN weights, only pickle files."""


class UnsupportedModelError(SourceError):
    """A checkpoint that is whole, but whose family or layout this version does not handle; the reason is named."""


class CalibrationError(MoecompressError):
    """Calibration text that is missing, empty or too short."""


class CoverageError(MoecompressError):
    """A source tensor that no pass claimed, or that two claimed."""


class ArtifactError(MoecompressError):
    """An artifact that is malformed, of an unknown version, or does not match its manifest."""


class IntegrityError(ArtifactError):
    """A file whose bytes are not the ones the manifest promises."""


class BudgetError(MoecompressError):
    """A memory or size budget that cannot be met; the message names the smallest that can."""

    exit_code = 2


class GateError(MoecompressError):
    """A quality gate of the recipe was missed; the artifact is kept and marked."""


class RequestError(MoecompressError):
    """A generation request that cannot be served (prompt longer than the context, failed read, bad option)."""
