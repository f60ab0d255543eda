"""What every codec promises, as checks that a codec of this project or of a third party runs through.

    check_codec(CODEC)

tries every example spec on awkward shapes; `check_weight` is the same for one weight, for use under hypothesis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from moecompress.codecs.base import Codec, CodecSpec, EncodedWeight
from moecompress.codecs.table import effective_bits, parse_spec
from moecompress.core import values
from moecompress.core.errors import ArtifactError

SHAPES = ((1, 1), (16, 32), (17, 33), (31, 64), (5, 130), (48, 256), (40, 129))
BAD_SHAPES = ((0, 8), (8, 0), (-16, 32), (16, -32))


def check_codec(codec: Codec, shapes: Iterable[tuple[int, ...]] = SHAPES, seed: int = 0) -> None:
    """Run every check on every example spec of `codec` and every shape."""
    generator = np.random.default_rng(seed)
    check_specs(codec)
    for spec in codec.examples:
        check_bad_shapes(codec, spec)
        for shape in shapes:
            check_weight(codec, codec.random(spec, shape, generator))


def check_specs(codec: Codec) -> None:
    """Specs have unique keys, are immutable, survive JSON and refuse unknown parameters."""
    keys = [spec.key for spec in codec.examples]
    assert keys and len(set(keys)) == len(keys), f"keys are not unique: {keys}"
    for spec in codec.examples:
        plain = values.plain(spec)
        assert parse_spec(plain) == spec and hash(parse_spec(plain)) == hash(spec)
        with pytest.raises(FrozenInstanceError):
            setattr(spec, "codec", "other")  # noqa: B010
        with pytest.raises(ArtifactError, match="not_a_parameter"):
            parse_spec({**plain, "not_a_parameter": 1})


def check_bad_shapes(codec: Codec, spec: CodecSpec) -> None:
    """Empty and negative sizes are refused before anything is computed from them."""
    for shape in BAD_SHAPES:
        with pytest.raises(ArtifactError):
            codec.nbytes(spec, shape)


def check_weight(codec: Codec, weight: EncodedWeight) -> None:
    """Round trip, exact size, refusal of other sizes, and the numbers of one weight."""
    packed = codec.pack(weight)
    check_size(codec, weight, packed)
    check_round_trip(codec, weight, packed)
    check_lengths(codec, weight, packed)
    check_values(codec, weight, packed)


def check_size(codec: Codec, weight: EncodedWeight, packed: Any) -> None:
    """`nbytes` and effective bits are those of the bytes really made."""
    assert packed.dtype == np.uint8 and packed.ndim == 1 and packed.flags.c_contiguous
    assert codec.nbytes(weight.spec, weight.shape) == packed.size
    assert effective_bits(weight.spec, weight.shape) == pytest.approx(8 * packed.size / weight.parameters)


def check_round_trip(codec: Codec, weight: EncodedWeight, packed: Any) -> None:
    """Unpacking gives the same arrays, in memory of their own, and packing again the same bytes."""
    again = codec.unpack(packed.copy(), weight.spec, weight.shape)
    assert again.spec == weight.spec and again.shape == weight.shape and set(again.arrays) == set(weight.arrays)
    for name, array in weight.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=f"{weight.spec.key} {weight.shape} {name}")
        assert not np.shares_memory(again.arrays[name], packed)
    np.testing.assert_array_equal(codec.pack(again), packed)


def check_lengths(codec: Codec, weight: EncodedWeight, packed: Any) -> None:
    """A byte too few, a byte too many, and nothing at all are refused."""
    for wrong in (packed[:-1], np.append(packed, np.uint8(0)), packed[:0]):
        with pytest.raises(ArtifactError, match="bytes"):
            codec.unpack(wrong, weight.spec, weight.shape)


def check_values(codec: Codec, weight: EncodedWeight, packed: Any) -> None:
    """Dequantising gives finite float32 of the weight's shape, the same before and after packing."""
    values = codec.dequantize(weight)
    assert values.dtype == np.float32 and values.shape == weight.shape and np.isfinite(values).all()
    stored = codec.dequantize(codec.unpack(packed, weight.spec, weight.shape))
    np.testing.assert_array_equal(values.view(np.uint32), stored.view(np.uint32))
