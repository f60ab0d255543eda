"""The key-value cache of 8 bits: half the memory, nearly the same output, named where figures are."""

from __future__ import annotations

import numpy as np
import pytest

from moecompress.core.errors import UsageError
from moecompress.runtime import _native
from moecompress.runtime.engine import Engine
from moecompress.testing.native import Bits

IDS = np.random.default_rng(11).integers(0, 299, 90).tolist()


def logits(artifact, **options):
    with Engine.open(artifact, **{"threads": 1, **options}, context=128, logits=len(IDS)) as engine:
        return engine.logits(IDS)


def test_eight_bits_are_nearly_the_same_output(encoded):
    artifact, _ = encoded("qwen3_moe", Bits(4, 8), head_dim=32)
    exact, rounded = logits(artifact), logits(artifact, kv="int8")
    assert not np.array_equal(exact, rounded)
    assert np.median(np.abs(exact - rounded)) < 0.02 * exact.std()  # a few tokens take another expert
    assert (exact.argmax(1) == rounded.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("options", [{"threads": 2}, {"chunk": 7}, *({"isa": name} for name in _native.isa_names())])
def test_eight_bits_are_the_same_output_however_it_is_computed(artifact, options):
    np.testing.assert_array_equal(logits(artifact, kv="int8"), logits(artifact, **options, kv="int8"))


def test_eight_bits_take_half_the_memory_and_a_scale(artifact):
    with Engine.open(artifact, context=128) as wide, Engine.open(artifact, context=128, kv="int8") as narrow:
        size = wide.manifest.architecture.config["head_dim"]
        assert narrow.plan.key_value / wide.plan.key_value == pytest.approx((size + 4) / (2 * size + 4), rel=0.02)


def test_the_result_names_the_option_that_changed_the_text(artifact):
    for kv, lossy in (("int16", ()), ("int8", ("kv=int8",))):
        with Engine.open(artifact, context=128, kv=kv) as engine:
            result = engine.generate(IDS[:5], max_tokens=3).run()
        assert result.lossy == lossy
        assert result.as_dict()["lossy"] == list(lossy)


def test_another_width_is_refused(artifact):
    with pytest.raises(UsageError, match="kv = 'int4' is not possible"):
        Engine.open(artifact, kv="int4")
