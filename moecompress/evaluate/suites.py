"""Evaluation suites: which text, how long the windows are, how many. Each is a YAML file; `quick` and `full` ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moecompress.core.errors import UsageError
from moecompress.core.registry import nearest
from moecompress.evaluate.reference import Window

_FOLDER = Path(__file__).parent / "suites"
BUILTIN = "builtin"


class Suite(BaseModel):
    """`text` is `builtin` (held-out standard-library text) or paths relative to the suite's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    description: str = ""
    text: str | tuple[str, ...] = BUILTIN
    window: int = Field(512, gt=1)
    windows: int = Field(40, gt=0)


@dataclass(frozen=True)
class Selection:
    """Text and windows to measure: `paths` is empty for the builtin text."""

    paths: tuple[Path, ...]
    window: int
    windows: int


def bundled() -> list[str]:
    """Names of the suites that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_suite(name: str) -> Selection:
    """The suite of that name or path. Raises UsageError for an unknown name or a bad file."""
    path = _FOLDER / f"{name}.yaml" if name in bundled() else Path(name)
    if not path.is_file():
        raise UsageError(f"There is no suite {name!r}.{nearest(name, bundled())} A path to a suite file works too.")
    try:
        suite = Suite.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    texts = () if suite.text == BUILTIN else (suite.text,) if isinstance(suite.text, str) else suite.text
    return Selection(tuple(path.parent / text for text in texts), suite.window, suite.windows)


def select(options: Any) -> Selection:
    """What a recipe's `evaluate` section, or the options of `eval`, ask for: the suite, with what they override."""
    suite = read_suite(options.suite or "quick")
    paths = tuple(Path(text) for text in options.text) if options.text else suite.paths
    return Selection(paths, options.window or suite.window, options.windows or suite.windows)


def windows_of(tokenizer_folder: Path, options: Any) -> Sequence[Window]:
    """The windows of token ids that `options` select, with the tokenizer in `tokenizer_folder`."""
    from moecompress.calibration.texts import evaluation_windows

    selection = select(options)
    return evaluation_windows(selection.paths, tokenizer_folder, selection.window, selection.windows)
