import numpy as np
import pytest

from moecompress.evaluate.metrics import log_softmax
from moecompress.evaluate.reference import ReferenceLogits

WINDOWS = [np.array([1, 2, 3]), np.array([4, 5])]


def rows(windows):
    generator = np.random.default_rng(3)
    return [generator.normal(size=(len(window), 6)).astype(np.float32) for window in windows]


def test_what_is_stored_comes_back_in_order(tmp_path):
    reference = ReferenceLogits(tmp_path, "model", WINDOWS, 6)
    reference.compute(rows)
    for stored, logits in zip(reference, rows(WINDOWS), strict=True):
        np.testing.assert_allclose(stored, log_softmax(logits), atol=2e-3)


def test_it_is_computed_once_per_model_and_text(tmp_path):
    ReferenceLogits(tmp_path, "model", WINDOWS, 6).compute(rows)
    again = ReferenceLogits(tmp_path, "model", WINDOWS, 6)
    assert again.complete
    again.compute(lambda windows: pytest.fail("computed twice"))
    assert not ReferenceLogits(tmp_path, "other", WINDOWS, 6).complete
    assert not ReferenceLogits(tmp_path, "model", WINDOWS[:1], 6).complete


def test_a_failed_computation_leaves_nothing(tmp_path):
    def fails(windows):
        yield rows(windows)[0]
        raise RuntimeError("engine died")

    reference = ReferenceLogits(tmp_path, "model", WINDOWS, 6)
    with pytest.raises(RuntimeError):
        reference.compute(fails)
    assert list(tmp_path.iterdir()) == []
