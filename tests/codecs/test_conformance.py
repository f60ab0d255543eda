"""Every registered codec passes the conformance suite, on fixed and on drawn weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moecompress.codecs.table import codecs
from moecompress.testing.codec_checks import check_codec, check_weight

EXAMPLES = [(codec, spec) for codec in codecs().values() for spec in codec.examples]


@pytest.mark.parametrize("name", sorted(codecs()))
def test_every_codec_conforms(name):
    check_codec(codecs()[name])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    example=st.sampled_from(EXAMPLES),
    rows=st.integers(1, 70),
    columns=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_drawn_weights_conform(example, rows, columns, seed):
    codec, spec = example
    check_weight(codec, codec.random(spec, (rows, columns), np.random.default_rng(seed)))
