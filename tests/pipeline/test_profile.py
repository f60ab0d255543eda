"""The profile of a tiny model: the same figures as the statistics and probes behind it."""

import numpy as np
import pytest

from moecompress.calibration.options import CalibrationOptions
from moecompress.core.progress import Silent
from moecompress.models.discover import discover
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.passes.sensitivity.shape import kurtosis
from moecompress.pipeline.profile import BITS, profile_model


@pytest.fixture(scope="module")
def opened(tiny):
    source = TensorSource.open(tiny("mixtral"))
    return source, discover(source)


CALIBRATION = CalibrationOptions(tokens=512, sequence_length=64, gradient_tokens=256)


def test_every_expert_is_profiled(opened, tmp_path):
    source, layout = opened
    profile = profile_model(source, layout, CALIBRATION, tmp_path, Silent(), group_size=32)
    assert list(profile.layers) == [0, 1] and "builtin" in profile.text
    for layer, experts in profile.layers.items():
        assert [expert.expert for expert in experts] == list(range(8))
        assert sum(expert.share for expert in experts) == pytest.approx(2), "top-2: every token uses two"
        for expert in experts:
            assert list(expert.nats) == list(expert.error) == list(BITS)
            used = expert.share > 0
            for figure in (expert.nats, expert.error):
                values = [figure[bits] for bits in BITS]
                assert (np.diff(values) < 0).all() if used else not any(values)
        matrices = read_expert(source, layout.moe[layer], 3)
        assert experts[3].kurtosis == pytest.approx(np.mean([kurtosis(matrix) for matrix in matrices.values()]))


def test_without_text_only_the_weights_speak(opened, tmp_path):
    source, layout = opened
    profile = profile_model(source, layout, None, tmp_path, Silent())
    first = profile.layers[0][0]
    assert first.share is first.nats is first.trace is None and first.kurtosis > 1 and 0 < first.energy < 1
    assert not (tmp_path / "statistics").exists()


def test_a_second_profile_measures_nothing(opened, tmp_path, monkeypatch):
    source, layout = opened
    first = profile_model(source, layout, CALIBRATION, tmp_path, Silent())
    monkeypatch.setattr("moecompress.pipeline.profile.measure", None)
    assert profile_model(source, layout, CALIBRATION, tmp_path, Silent()) == first
