"""Damaged copies of one artifact, given to the reader, the verifier and the engine, and hostile calls into the core.

    python -m moecompress.testing.fuzz artifact FOLDER --seed 1 --cases 300
    python -m moecompress.testing.fuzz core FOLDER --seed 1 --first 57 --cases 1

A case is named by its seed and number. It must end with an error of this project or with the right output; a crash, a
hang, another exception or more memory than files of that size justify is a failure, told with the case's name.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from moecompress.artifact.manifest import MANIFEST
from moecompress.artifact.reader import ArtifactReader
from moecompress.artifact.verify import verify
from moecompress.core.errors import MoecompressError
from moecompress.runtime import _native
from moecompress.runtime.engine import Engine
from moecompress.testing.core_calls import CoreCalls
from moecompress.testing.damage import put_down, restore
from moecompress.testing.damage_kinds import damaged
from moecompress.testing.isolated import Limits, carry_out

_IDS = [1, 5, 9, 2, 2, 7]
_BUDGET = "384MiB"
_LONGEST_MESSAGE = 2000
_RESIDENT = 48 << 20  # that a tiny artifact's engine, reader and template may take together
_SECONDS = 30.0
_FINE = "fine"


class DamagedArtifacts:
    """`check(number)` for `carry_out`: damages a copy of an artifact and reads it in every way."""

    def __init__(self, folder: Path, seed: int, work: Path) -> None:
        self._sound = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self._tables = json.loads(self._sound[MANIFEST])
        self._seed, self._work, self._source = seed, work, folder
        self._expected = _generate(folder)

    def check(self, number: int) -> str:
        """What became of case `number`: the kind of damage and how reader, verifier and engine ended."""
        generator = Random(f"{self._seed}:{number}")
        kind, draft = damaged(self._sound, self._tables, generator)
        folder = self._own_copy()
        changed = put_down(draft, folder, self._sound)
        try:
            guarded = not draft.sealed or draft.own_manifest
            return f"{kind}: {self._read(folder, guarded, generator)}"
        finally:
            restore(folder, changed, self._sound)

    def _read(self, folder: Path, guarded: bool, generator: Random) -> str:
        reader, verified = _ending(lambda: _read_all(folder)), _ending(lambda: verify(folder))
        slots = generator.choice([None, None, 2, 3])
        predictor = generator.choice(_native.predictor_names())
        ahead = {"speculation": generator.choice(["off", "on"]), "predictor": predictor}
        tokens: list[tuple[int, ...]] = []
        engine = _ending(lambda: tokens.append(_generate(folder, slots=slots, **ahead)))
        if tokens and guarded and verified == _FINE and tokens[0] != self._expected:
            raise AssertionError(f"verify accepts the artifact, but it gives {tokens[0]} instead of {self._expected}")
        if tokens and generator.random() < 0.25:
            other = _generate(folder, slots=None if slots else 8, isa="scalar", chunk=2)
            if other != tokens[0]:
                raise AssertionError(f"{tokens[0]} with {slots} slots, {other} otherwise")
        return f"{reader}, {verified}, {engine}"

    def _own_copy(self) -> Path:
        """This process's copy of the sound artifact."""
        folder = self._work / str(os.getpid())
        if not folder.exists():
            shutil.copytree(self._source, folder)
        return folder


def _ending(action: Callable[[], Any]) -> str:
    """`fine`, or the class of the project's error."""
    try:
        action()
    except MoecompressError as error:
        if not 0 < len(str(error)) < _LONGEST_MESSAGE:
            raise AssertionError(f"an error message of {len(str(error))} characters: {str(error)[:200]}") from error
        return type(error).__name__
    return _FINE


def _read_all(folder: Path) -> None:
    with ArtifactReader(folder) as reader:
        for name in reader.manifest.trunk:
            reader.trunk(name)
        for layer in reader.manifest.experts:
            for expert in range(len(layer.experts)):
                reader.expert(layer.layer, expert)
        for name in reader.manifest.files:
            if not name.endswith((".safetensors", ".md")):
                reader.asset(name)


def _generate(folder: Path, **options: Any) -> tuple[int, ...]:
    """A few tokens after token ids, text and a chat; those after the ids are returned."""
    with Engine.open(folder, memory=_BUDGET, threads=1, context=64, **options) as engine:
        tokens = engine.generate(_IDS, max_tokens=3).run().token_ids
        if any(not 0 <= token < engine.vocabulary for token in tokens):
            raise AssertionError(f"tokens {tokens} of a vocabulary of {engine.vocabulary}")
        engine.generate("the inner part", max_tokens=2, temperature=1.0).run()
        engine.generate(engine.tokenizer.chat([{"role": "user", "content": "the thing"}]), max_tokens=1).run()
        return tokens


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the readers of artifacts, or the core, reproducibly.")
    parser.add_argument("target", choices=["artifact", "core"])
    parser.add_argument("folder", type=Path, help="a sound artifact that the engine runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--sanitizer", action="store_true", help="set no limit on memory, which sanitizers need")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Carries out the cases and prints a summary as JSON; 1 when one of them failed."""
    chosen = _arguments(words)
    limits = Limits(_SECONDS, _RESIDENT, 1 << 30)
    if chosen.sanitizer:
        limits = Limits(4 * _SECONDS, 1 << 40, None)
    endings: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as work:
        target = CoreCalls if chosen.target == "core" else DamagedArtifacts
        check = target(chosen.folder, chosen.seed, Path(work)).check
        for outcome in carry_out(check, range(chosen.first, chosen.first + chosen.cases), limits):
            endings[outcome.word or "failed"] += 1
            if outcome.failure is not None:
                failures.append(outcome.number)
                print(f"seed {chosen.seed}, case {outcome.number}: {outcome.failure[-3000:]}", file=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = {"cases": chosen.cases, "cpu_s": round(used.ru_utime + used.ru_stime, 1), "failures": failures}
    print(json.dumps({**summary, "endings": dict(sorted(endings.items()))}, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
