"""The journal of a run: which units are finished, so that the same command goes on after a kill.

A unit is one decoder layer, or the tensors outside all layers. Its entry is a JSON file written after the unit's
pieces, to a temporary name and renamed; a unit without an entry is done again. The folder's name is the fingerprint of
everything the bytes depend on, so work of another recipe, model or version is never picked up.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OUTSIDE = "outside"


def unit_name(index: int | None) -> str:
    """`layer-00003`, or `outside` for the tensors outside all layers."""
    return OUTSIDE if index is None else f"layer-{index:05d}"


@dataclass(frozen=True)
class UnitEntry:
    """What happened to one unit: source tensors read, the fate of each parameter, and the passes' notes."""

    unit: str
    sources: tuple[str, ...]
    fates: Mapping[str, str]
    notes: tuple[Mapping[str, Any], ...]


class RunState:
    """The work folder of one run: `<out>.work/<fingerprint>`."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.out = out
        self.folder = _folder(out, fingerprint)
        self._root = self.folder.parent
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def exists(out: Path, fingerprint: str) -> bool:
        """Whether this very run began and did not end; nothing is created."""
        return _folder(out, fingerprint).is_dir()

    @property
    def pieces(self) -> Path:
        """Where finished pieces of the artifact wait."""
        return self.folder / "pieces"

    def entry(self, unit: str) -> UnitEntry | None:
        """The entry of a finished unit, or None."""
        path = self.folder / f"{unit}.json"
        if not path.is_file():
            return None
        values = json.loads(path.read_text())
        return UnitEntry(values["unit"], tuple(values["sources"]), values["fates"], tuple(values["notes"]))

    def finish(self, entry: UnitEntry) -> None:
        """Record a unit whose pieces are already safe on disk."""
        self._write(self.folder / f"{entry.unit}.json", asdict(entry))

    def decision(self, position: int) -> Any:
        """What the pass at `position` decided, as a mapping with `plan`, or None when it has not yet."""
        path = self._decision(position)
        return json.loads(path.read_text()) if path.is_file() else None

    def decide(self, position: int, decision: Mapping[str, Any]) -> None:
        """Record a decision before any unit depends on it."""
        self._write(self._decision(position), decision)

    def _decision(self, position: int) -> Path:
        return self.folder / f"decision-{position:03d}.json"

    def _write(self, path: Path, value: Any) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def unfinished_others(self) -> list[Path]:
        """Work folders of other recipes, models or versions beside this one."""
        return sorted(path for path in self._root.iterdir() if path != self.folder)

    def remove(self) -> None:
        """Delete this run's work folder, and the common folder when nothing else is in it."""
        shutil.rmtree(self.folder)
        if not any(self._root.iterdir()):
            self._root.rmdir()


def _folder(out: Path, fingerprint: str) -> Path:
    return out.with_name(out.name + ".work") / fingerprint[:16]
