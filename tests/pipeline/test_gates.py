from pathlib import Path

import pytest

from moecompress.core.errors import GateError
from moecompress.pipeline.gates import check_gates, missed_gates
from moecompress.recipe.schema import Gates

MEASURED = {
    "original": {"perplexity": 10.0},
    "artifact": {"perplexity": 11.0, "kl_mean": 0.05, "top1_agreement": 0.9},
}


@pytest.mark.parametrize(
    ("gates", "missed"),
    [
        ({}, 0),
        ({"perplexity_ratio": 1.11, "kl_mean": 0.06, "top1_agreement": 0.89}, 0),
        ({"perplexity_ratio": 1.09}, 1),
        ({"kl_mean": 0.04}, 1),
        ({"top1_agreement": 0.91}, 1),
        ({"perplexity_ratio": 1.09, "kl_mean": 0.04, "top1_agreement": 0.91}, 3),
    ],
)
def test_each_gate_is_held_against_its_figure(gates, missed):
    assert len(missed_gates(Gates(**gates), MEASURED)) == missed


def test_a_missed_gate_fails_with_the_figure_and_says_the_artifact_is_kept():
    with pytest.raises(GateError, match=r"kept.*1\.1000.*1\.05"):
        check_gates(Gates(perplexity_ratio=1.05), MEASURED, Path("somewhere"))
