"""Artifacts damaged by the structure they have: one kind of damage per function, chosen and placed by a seed.

Most damage is sealed afterwards: the hashes and totals in the manifest are made to fit, as anyone can who means harm,
so that the checks behind the hashes are reached. What is put down may well be a sound artifact again.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from moecompress.artifact.checks import is_weight_file
from moecompress.artifact.manifest import MANIFEST, README
from moecompress.core.hashing import fingerprint, sha256_bytes

Odd = Literal["missing", "link", "fifo", "folder"]

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 31, 63, 64, 65, 4095, 4096, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**48, 2**62, 2**63 - 1, 2**63,
    2**64, 10**30, 10**400, -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e38, 1e308, True, "0", "1", None,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, False, "", "x", "../x", "\ud800", "é", "a" * 70_000, [], {}, [[]], [0], {"a": 1}, "null", 7, 1.5,
)  # fmt: skip
STEPS = (-4096, -64, -1, 1, 64, 4096)
_NO_DIGEST = "0" * 64


@dataclass
class Draft:
    """The files of an artifact in memory; `odd` names what stands in place of a file; `sealed`: hashes fit again."""

    files: dict[str, bytes]
    plain: Any  # the manifest
    tables: Any  # the manifest as it was
    odd: dict[str, Odd] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # in the manifest's text: what to put in place of what
    sealed: bool = True
    own_manifest: bool = False  # the manifest's bytes were damaged themselves

    @classmethod
    def of(cls, files: Mapping[str, bytes], tables: Any) -> Draft:
        """A draft of sound files and their manifest, which stay as they are."""
        return cls(dict(files), json.loads(files[MANIFEST]), tables)

    def seal(self) -> None:
        """Make the manifest's sizes and hashes fit what the draft holds."""
        if self.own_manifest:
            return
        if self.sealed:
            self._fit_files()
        self.files[MANIFEST] = self._manifest()

    def _fit_files(self) -> None:
        """The entries of changed files, and the totals that follow from them."""
        entries = self.plain.get("files") if isinstance(self.plain, dict) else None
        if not isinstance(entries, dict):
            return
        grown = 0
        for name, data in self.files.items():
            entry = entries.get(name)
            if not isinstance(entry, dict) or entry.get("sha256") == sha256_bytes(data):
                continue
            if is_weight_file(name) and isinstance(entry.get("bytes"), int):
                grown += len(data) - entry["bytes"]
            entry.update(bytes=len(data), sha256=sha256_bytes(data))
        size = self.plain.get("size")
        if (
            grown
            and isinstance(size, dict)
            and all(isinstance(size.get(key), int) for key in ("weight_bytes", "parameters"))
        ):
            size["weight_bytes"] += grown
            size["bits_per_weight"] = 8 * size["weight_bytes"] / max(1, size["parameters"])

    def _manifest(self) -> bytes:
        if not isinstance(self.plain, dict):
            return json.dumps(self.plain).encode()
        if not self.sealed:
            return self._text()
        self.plain["artifact_hash"] = _behaviour(self.plain)
        if "checksum" in self.plain:
            self.plain["checksum"] = _NO_DIGEST
        text = self._text()
        for _ in range(4):  # the total's own digits are part of the total
            _set_total(self.plain, len(text))
            text = self._text()
        head, found, tail = text.rpartition(_NO_DIGEST.encode())
        return head + sha256_bytes(text).encode() + tail if found else text

    def _text(self) -> bytes:
        last = {key: value for key, value in self.plain.items() if key == "checksum"}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {**self.plain, **last}.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text.encode()


def _behaviour(plain: Mapping[str, Any]) -> str:
    """The artifact_hash of plain values, whatever they are."""
    files = plain.get("files")
    entries = files.items() if isinstance(files, dict) else ()
    named = {name: entry.get("sha256") for name, entry in entries if isinstance(entry, dict) and name != README}
    keys = ("format", "format_version", "architecture", "codecs", "trunk", "experts")
    try:
        return fingerprint({**{key: plain.get(key) for key in keys}, "files": named})
    except ValueError:  # text that has no UTF-8
        return _NO_DIGEST


def _set_total(plain: dict[str, Any], manifest_bytes: int) -> None:
    size, files = plain.get("size"), plain.get("files")
    if not isinstance(size, dict) or not isinstance(files, dict) or "bytes" not in size:
        return
    counts = [entry.get("bytes") for entry in files.values() if isinstance(entry, dict)]
    size["bytes"] = manifest_bytes + sum(count for count in counts if isinstance(count, int))


def put_down(draft: Draft, folder: Path, sound: Mapping[str, bytes]) -> list[str]:
    """Write what differs from the sound files, which the folder holds; returns the names to restore afterwards."""
    changed = [name for name in {*draft.files, *sound} if draft.files.get(name) != sound.get(name)]
    for name in changed:
        (folder / name).unlink(missing_ok=True)
        if name in draft.files:
            (folder / name).write_bytes(draft.files[name])
    for name, odd in draft.odd.items():
        _put_odd(folder / name, odd)
    return [*changed, *draft.odd]


def _put_odd(path: Path, odd: Odd) -> None:
    path.unlink(missing_ok=True)
    if odd == "link":
        path.symlink_to("/dev/zero")
    elif odd == "fifo":
        os.mkfifo(path)
    elif odd == "folder":
        path.mkdir()


def restore(folder: Path, names: list[str], sound: Mapping[str, bytes]) -> None:
    """Bring files back to what they were."""
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        if name in sound:
            path.write_bytes(sound[name])


Place = tuple[Any, Any]  # a container and the key or index of one of its values


def some_place(value: Any, generator: Random, leaf: bool = False) -> Place | None:
    """A place inside a JSON value, found by walking down at random, so that small parts are met as often as large."""
    place: Place | None = None
    while isinstance(value, dict | list) and value:
        key = generator.choice(list(value)) if isinstance(value, dict) else generator.randrange(len(value))
        place, value = (value, key), value[key]
        if not leaf and generator.random() < 0.2:
            break
    return place


def hostile(old: Any, generator: Random) -> Any:
    """Another value for a number or text: a boundary, a neighbour, or of another type."""
    if isinstance(old, int | float) and not isinstance(old, bool) and generator.random() < 0.4:
        return old + generator.choice(STEPS) if generator.random() < 0.7 else old * 2
    return copy.deepcopy(generator.choice(NUMBERS if generator.random() < 0.8 else OTHERS))
