"""Every registered allocator passes the conformance suite, and the suite catches broken promises."""

import numpy as np
import pytest

from moecompress.passes.allocate.base import Allocation, Allocator
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.allocate.table import allocators
from moecompress.testing.allocator_checks import check, check_allocator
from moecompress.testing.pass_checks import tiny_units

OTHER_OPTIONS = {
    "random": [{"seed": 3}],
    "frequency": [{"score": "weight", "scope": "layer"}],
    "edgemoe": [{"profile": "proxy"}],
    "pmq": [{"spread": False, "beta": 1.5, "solver": "milp"}],
    "gemq": [{"solver": "milp"}],
    "mopeq": [{"score": "kurtosis"}, {"score": "heavy_tail", "scope": "layer"}, {"score": "frequency"}],
    "mxmoe": [{"accuracy": 1.0, "scope": "model"}, {"accuracy": 0.0}],
    "edge": [{"memory": "20KiB", "weight": 2.0}, {"memory": "100%"}],
}


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    return tiny_units(tmp_path_factory.mktemp("units"), "mixtral")


@pytest.mark.parametrize("name", sorted(allocators()))
def test_every_allocator_conforms(name, units):
    check_allocator(name, units)
    for options in OTHER_OPTIONS.get(name, ()):
        check_allocator(name, units, options)


def all_of(column):
    return lambda candidates, options, findings: Allocation(np.full(candidates.shape[0], column % candidates.shape[1]))


def by_chance(candidates, options, findings):
    return Allocation(
        np.random.default_rng().integers(0, 2, candidates.shape[0]) * 0, float(np.random.default_rng().random())
    )


def rising(candidates, options, findings):
    return Allocation(np.zeros(candidates.shape[0], np.int64), float(candidates.limit or 0))


@pytest.mark.parametrize(
    ("choose", "words"),
    [(all_of(-1), "exceeds"), (by_chance, "decisions differ"), (rising, "more loss with a larger budget")],
)
def test_the_suite_catches_broken_promises(choose, words, units):
    with pytest.raises(AssertionError, match=words):
        check("mine", Allocator(options=AllocationOptions, choose=choose), units, {})
