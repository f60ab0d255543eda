"""The global decisions of a recipe's passes: measured, planned once, journaled, and the same after a kill.

A pass that wants something measured sees each layer as the passes before it leave it. Its decision is written to the
run's journal, and to the cache, from which `plan` can tell exact bytes before the next run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moecompress import __version__
from moecompress.core.errors import OptionError
from moecompress.core.hashing import canonical_json, fingerprint
from moecompress.core.progress import Progress
from moecompress.models.discover import ModelLayout
from moecompress.models.source import TensorSource
from moecompress.passes.base import PassContext, Survey
from moecompress.pipeline.answers import AnswerStore, answered
from moecompress.pipeline.evaluator import LayerwiseEvaluator
from moecompress.pipeline.state import RunState
from moecompress.pipeline.statistics import Statistics
from moecompress.pipeline.units import read_unit
from moecompress.recipe.load import LoadedRecipe
from moecompress.recipe.schema import PassStep

Contexts = Callable[[int, str, int | None], PassContext]


@dataclass(frozen=True)
class Decisions:
    """Makes the plans of a recipe's passes, in their order. `context(position, name, layer)` is what `apply` gets."""

    recipe: LoadedRecipe
    source: TensorSource
    layout: ModelLayout
    cache: Path

    def forecast(self, tokens_hash: Callable[[], str | None]) -> list[Any]:
        """Plans from headers, or those of an earlier run where the cache has them; nothing is computed or written."""
        plans: list[Any] = []
        for position, step in enumerate(self.recipe.steps):
            kept = None
            if self._probes(step) and self._folder.is_dir():
                path = self._kept(position, tokens_hash())
                kept = json.loads(path.read_text()) if path.is_file() else None
            plans.append(kept if kept is not None else self._plan(step, None))
        return plans

    def make(self, state: RunState, statistics: Statistics, context: Contexts, progress: Progress) -> list[Any]:
        """The plans of a run: from its journal, or made now."""
        plans: list[Any] = []
        for position, step in enumerate(self.recipe.steps):
            journaled = state.decision(position)
            if journaled is None:
                surveyed = self._probes(step)
                with TemporaryDirectory(prefix="moecompress-", dir=state.folder) as scratch:
                    survey = Survey({})
                    if surveyed:
                        survey = self._survey(position, step, plans, statistics, context, progress, Path(scratch))
                    journaled = {"plan": self._plan(step, survey)}
                state.decide(position, journaled)
                if isinstance(journaled["plan"], dict) and "summary" in journaled["plan"]:
                    progress.log(f"{step.name}: {journaled['plan']['summary']}", journaled["plan"])
                if surveyed:
                    self._keep(position, statistics.tokens_hash, journaled["plan"])
            plans.append(journaled["plan"])
        return plans

    def _plan(self, step: PassStep, survey: Survey | None) -> Any:
        """Through JSON, so that a plan is the same before and after it was stored."""
        with located(step):
            return json.loads(canonical_json(step.definition.plan(step.options, self.layout.moe, survey)))

    def _probes(self, step: PassStep) -> Mapping[int, Sequence[Any]]:
        """What a pass wants to know of each layer before it decides; empty when headers are enough."""
        with located(step):
            return step.definition.probes(step.options, self.layout.moe)

    def _survey(
        self,
        position: int,
        step: PassStep,
        plans: Sequence[Any],
        statistics: Statistics,
        context: Contexts,
        progress: Progress,
        scratch: Path,
    ) -> Survey:
        def measure(layer: int, probes: Sequence[Any]) -> list[Any]:
            unit = read_unit(self.source, self.layout, layer)[0]
            for earlier, (before, plan) in enumerate(zip(self.recipe.steps, plans, strict=False)):
                unit = before.definition.apply(unit, before.options, plan, context(earlier, before.name, layer))
            return step.definition.measure(unit, probes, PassContext(0, statistics.layer(layer)))

        identity = self._identity(position, statistics.tokens_hash)
        store = AnswerStore(self.cache / "answers", identity)
        answers = answered(store, self._probes(step), measure, progress, step.name)
        evaluate = None
        if statistics.ids is not None:
            known = self.cache / "evaluations"
            evaluate = LayerwiseEvaluator(self.source, self.layout, statistics.ids, scratch, known, identity)
        return Survey(answers, evaluate)

    def _identity(self, position: int, tokens_hash: str | None) -> dict[str, Any]:
        """What every answer to a pass depends on, beside the probe."""
        earlier = self.recipe.resolved["passes"][:position]
        before = [earlier, self.recipe.recipe.seed] if earlier else []
        return answer_identity(self.source, tokens_hash, self.recipe.recipe.calibration.gradient_tokens, before)

    def _keep(self, position: int, tokens_hash: str | None, plan: Any) -> None:
        path = self._kept(position, tokens_hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(canonical_json(plan) + "\n")
        partial.replace(path)

    @property
    def _folder(self) -> Path:
        return self.cache / "decisions"

    def _kept(self, position: int, tokens_hash: str | None) -> Path:
        identity = [self._identity(position, tokens_hash), self.recipe.resolved["passes"][position]]
        return self._folder / f"{fingerprint(identity)[:32]}.json"


def answer_identity(
    source: TensorSource, tokens_hash: str | None, gradient_tokens: int, before: Sequence[Any] = ()
) -> dict[str, Any]:
    """What answers to probes depend on beside the probe: model, text, what `before` did to the layers, and versions."""
    return {
        "source": source.content_hash(),
        "tokens": tokens_hash,
        "gradient_tokens": gradient_tokens if tokens_hash else 0,
        "before": list(before),
        "versions": [__version__, *(version(name) for name in ("torch", "transformers"))],
    }


@contextmanager
def located(step: PassStep) -> Iterator[None]:
    """Errors of a pass's options get the line they are written on."""
    try:
        yield
    except OptionError as error:
        raise step.located(error) from error


def described(steps: Sequence[PassStep], plans: Sequence[Any]) -> Mapping[str, Any]:
    """The decisions as an entry of the manifest's `provenance.passes`."""
    notes = [{"pass": step.name, "plan": plan} for step, plan in zip(steps, plans, strict=True) if plan is not None]
    return {"unit": "model", "fates": {}, "notes": notes}
