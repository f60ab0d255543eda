"""The loop that measures how fast memory is read."""

import pytest

from moecompress.runtime import _native


@pytest.mark.parametrize("threads", [1, 2])
def test_every_pass_has_a_speed(threads):
    speeds = _native.read_speeds(8 << 20, threads=threads, passes=3)
    assert len(speeds) == 3
    assert all(1e7 < speed < 1e13 for speed in speeds)


@pytest.mark.parametrize(("size", "passes"), [(1000, 1), (1 << 20, 0), (1 << 20, 1001)])
def test_too_little_to_measure_is_refused(size, passes):
    with pytest.raises(ValueError, match="Reading speed needs at least 1 MiB and 1 to 1000 passes"):
        _native.read_speeds(size, passes=passes)


def test_impossible_threads_are_refused():
    with pytest.raises(ValueError, match="A pool of 0 threads cannot be made"):
        _native.read_speeds(1 << 20, threads=0)
