"""The thread pool visits every item once, whatever the counts, and brings errors back to the caller."""

import time

import numpy as np
import pytest

from moecompress.runtime import _native


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 1000])
def test_every_item_is_visited_once_a_round(threads, items):
    np.testing.assert_array_equal(_native.thread_pool_visits(threads, items, rounds=50), np.full(items, 50))


@pytest.mark.parametrize("fail_at", [0, 999])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_an_error_in_any_range_reaches_the_caller(threads, fail_at):
    with pytest.raises(ValueError, match=f"Item {fail_at} was told to fail"):
        _native.thread_pool_visits(threads, 1000, rounds=3, fail_at=fail_at)


def test_waiting_threads_sleep():
    """Far more threads than cores: were waiting to spin without end, each round would cost whole time slices."""
    before = time.process_time()
    _native.thread_pool_visits(16, 16, rounds=200)
    assert time.process_time() - before < 5


def test_impossible_numbers_of_items_are_refused():
    for items in (-1, 2**20 + 1, 2**62):
        with pytest.raises(ValueError, match=f"not of {items}"):
            _native.thread_pool_visits(1, items)


def test_impossible_numbers_of_threads_are_refused():
    for threads in (0, -1, 257):
        with pytest.raises(ValueError, match=f"A pool of {threads} threads cannot be made"):
            _native.thread_pool_visits(threads, 1)
