"""Texts that every Python installation carries, so that calibration and evaluation work offline.

Two kinds of document: the source of each standard-library module, and each topic of the language
documentation in `pydoc_data`. A document's split depends on the SHA-256 of its name alone, so it is the
same on every machine and adding a document never moves another one.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moecompress.core.errors import CalibrationError, UsageError

SPLITS = ("train", "calibration", "heldout")

# Hash thresholds in thousandths. Documentation has few and large documents: it gets wider held-out bands.
_HELD_BANDS = {"code": 60, "docs": 100}
_SALT = "moecompress/builtin/1"

# Not prose anybody wrote to be read: tests, installed packages, generated tables, data in .py form, and
# modules that differ between machines (build settings).
_EXCLUDED_PARTS = frozenset({
    "__pycache__", "dist-packages", "ensurepip", "idle_test", "lib-dynload", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "turtledemo",
})  # fmt: skip
_EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")
_EXCLUDED_FILES = frozenset({"html/entities.py", "sitecustomize.py", "usercustomize.py"})
_ENCODING_SOURCES = frozenset({"__init__.py", "aliases.py", "idna.py", "punycode.py", "utf_8_sig.py"})


class UnknownSplitError(UsageError, ValueError):
    """The asked-for split is not one of `SPLITS`."""


@dataclass(frozen=True, order=True)
class Document:
    """One text with a name that is the same on every machine, such as `code/json/decoder.py`."""

    name: str
    text: str


def split_of(name: str) -> str:
    """Split of the document called `name`: about 86 % train, 7 % calibration, 7 % heldout."""
    held = _HELD_BANDS[name.partition("/")[0]]
    digest = hashlib.sha256(f"{_SALT}\n{name}".encode()).digest()
    slot = int.from_bytes(digest[:8], "big") % 1000
    if slot < held:
        return "heldout"
    return "calibration" if slot < 2 * held else "train"


def builtin_documents(split: str) -> list[Document]:
    """Documents of one split (`train`, `calibration` or `heldout`), sorted by name."""
    if split not in SPLITS:
        raise UnknownSplitError(f"unknown split {split!r} of the builtin texts; choose one of {', '.join(SPLITS)}")
    return [document for document in _all_documents() if split_of(document.name) == split]


def builtin_passages(split: str, count: int, characters: int) -> list[str]:
    """The first `characters` of `count` documents of a split, in an order that follows from their names alone.

    Shorter documents are passed over, so a split may give fewer. No file is read that does not come into question.
    """
    paths, topics = _module_paths(Path(sysconfig.get_path("stdlib"))), _topics()
    named = {f"docs/{name}": name for name in topics}
    names = [name for name in (*paths, *named) if split_of(name) == split]
    passages: list[str] = []
    for name in sorted(names, key=lambda name: hashlib.sha256(f"passages\n{name}".encode()).digest()):
        text = topics[named[name]] if name in named else _read(paths[name])
        if len(text) >= characters:
            passages.append(text[:characters])
        if len(passages) == count:
            break
    return passages


@lru_cache(maxsize=1)
def _all_documents() -> tuple[Document, ...]:
    modules = _module_sources(Path(sysconfig.get_path("stdlib")))
    if not modules:
        raise CalibrationError("this Python carries no standard-library sources; name text files as calibration source")
    return tuple(sorted((*modules, *_documentation_topics())))


def _module_sources(root: Path) -> list[Document]:
    """Readable modules below `root`, the standard library's folder."""
    documents = [Document(name, _read(path)) for name, path in _module_paths(root).items()]
    return [document for document in documents if document.text.strip()]


def _module_paths(root: Path) -> dict[str, Path]:
    """Name of the document → file, for every readable module below `root`."""
    relatives = (path.relative_to(root) for path in root.rglob("*.py"))
    return {f"code/{relative.as_posix()}": root / relative for relative in relatives if _is_readable_source(relative)}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_readable_source(relative: Path) -> bool:
    parts = relative.parts
    if _EXCLUDED_PARTS.intersection(parts) or relative.as_posix() in _EXCLUDED_FILES:
        return False
    if any(part.startswith(_EXCLUDED_PREFIXES) for part in parts):
        return False
    return parts[0] != "encodings" or relative.name in _ENCODING_SOURCES


def _documentation_topics() -> list[Document]:
    return [Document(f"docs/{name}", text) for name, text in _topics().items() if text.strip()]


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics  # 700 kB: only when asked for

    return topics
