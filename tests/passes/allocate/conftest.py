"""Toy models for allocators: real shapes and record bytes, findings made up by formula."""

import numpy as np
import pytest

from moecompress.codecs.affine import AffineSpec
from moecompress.core.hashing import canonical_json
from moecompress.core.types import ExpertLayout, MoeLayer
from moecompress.passes.allocate._candidates import candidates_of
from moecompress.passes.allocate.base import Findings
from moecompress.passes.allocate.table import allocator_named

METHOD = {"method": "rtn", "method_options": {}, "weighting": "none"}


def moe(index, experts=4, hidden=256, width=128):
    names = {projection: f"{index}.{{e}}.{projection}" for projection in ("gate", "up", "down")}
    return MoeLayer(index, str(index), experts, 2, hidden, width, ExpertLayout(names, stacked=False), ("router",), ())


class Toy:
    """An allocator's options on a toy model. `error(layer, expert, projection, bits)` is a swap's error."""

    def __init__(self, name, layers=2, experts=4, counts=None, error=None, scores=None, evaluate=None, **values):
        self.allocator = allocator_named(name)
        values = {"count": "nominal", **values}
        self.options = self.allocator.options.model_validate({"allocate": name, **values})
        grid = self.allocator.grid(self.options, len(self.options.choices))
        self.candidates = candidates_of(self.options, grid, 64, {i: moe(i, experts) for i in range(layers)}, METHOD)
        self.counts = counts or [[10 * (expert + 1) for expert in range(experts)]] * layers
        self.error, self.scores, self.evaluate = error or (lambda *_: 1.0), scores, evaluate
        answers = {
            layer: {canonical_json(probe): self._answer(layer, probe) for probe in probes}
            for layer, probes in self.allocator.probes(self.candidates, self.options).items()
        }
        self.findings = Findings(answers, evaluate and (lambda choice, tokens: evaluate(self.bits_of(choice))))

    def _answer(self, layer, probe):
        experts = range(len(self.counts[layer]))
        if probe["kind"] == "usage":
            counts = self.counts[layer]
            return {"count": counts, "raw": [c * 0.4 for c in counts], "used": [c * 0.5 for c in counts], "tokens": 100}
        if probe["kind"] != "swap":
            return (
                {"up": [self.scores(layer, expert) for expert in experts]}
                if probe["kind"] == "trace"
                else self._shape(layer)
            )
        forms = {p: form["bits"] for p, form in probe["forms"].items() if form}
        errors = [sum(self.error(layer, e, p, bits) for p, bits in forms.items()) for e in experts]
        return {"error": errors, "weighted": errors, "directed": errors}

    def _shape(self, layer):
        values = [self.scores(layer, expert) for expert in range(len(self.counts[layer]))]
        return {"kurtosis": {"up": values}, "alpha": {"up": values}}

    def choose(self):
        return self.allocator.choose(self.candidates, self.options, self.findings)

    def bits(self, projection="down"):
        """Bits of a projection, `[layers, experts]`."""
        rows = self.bits_of(self.choose().choice, projection)
        return rows.reshape(len(self.candidates.layers), -1).tolist()

    def bits_of(self, choice, projection="down"):
        """Bits of a projection of every expert, `[U]`; 16 for one left alone."""
        chosen = zip(self.candidates.layer, choice, strict=True)
        return np.array([self.candidates.specs(int(n), int(c))[projection].bits if c >= 0 else 16 for n, c in chosen])


@pytest.fixture
def toy():
    """toy(name, …) → a Toy."""
    return Toy


@pytest.fixture
def falling():
    """falling(sensitivity) → an error that falls fourfold with each bit, times a sensitivity of layer and expert."""
    return lambda sensitivity: lambda layer, expert, projection, bits: sensitivity(layer, expert) * 4.0**-bits


@pytest.fixture
def spec():
    """spec(bits) → the form of that width in groups of 64."""
    return lambda bits: AffineSpec(bits=bits, group_size=64)
