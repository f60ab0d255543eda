"""The order in which reader lanes work: pieces of records that wait until they are let through."""

from __future__ import annotations

import threading

import pytest

from moecompress.runtime._native import LaneTrial

KIB = 1024
PIECE = 256 * KIB  # of a read ahead
SMALL = (PIECE, PIECE, PIECE)  # one piece, whatever the urgency
PARTS = (256 * KIB, 512 * KIB, 768 * KIB)  # a piece for each matrix
LONG = (1024 * KIB, 1024 * KIB, 1024 * KIB)  # one piece on demand, four ahead


def _records(pieces: list[tuple[int, int, int]]) -> list[int]:
    return [record for record, _, _ in pieces]


def test_demand_goes_before_what_may_be_needed_soon():
    trial = LaneTrial()
    first = trial.submit(SMALL, demand=True)
    trial.begun(1)  # the lane is busy; what follows is ordered by urgency
    ahead = [trial.submit(SMALL, demand=False) for _ in range(2)]
    wanted = [trial.submit(SMALL, demand=True) for _ in range(2)]
    trial.open(5)
    assert _records(trial.begun(5)) == [first, *wanted, *ahead]


def test_a_read_ahead_gives_way_between_its_pieces_and_goes_on_afterwards():
    trial = LaneTrial()
    ahead = trial.submit(LONG, demand=False)
    assert trial.begun(1) == [(ahead, 0, PIECE)]
    wanted = trial.submit(LONG, demand=True)
    trial.open(1)
    assert trial.begun(2)[-1] == (wanted, 0, 4 * PIECE)
    trial.open(4)
    assert trial.begun(5)[2:] == [(ahead, number * PIECE, PIECE) for number in (1, 2, 3)]
    trial.settle(ahead)
    assert trial.ready(ahead, 3) and trial.ready(wanted, 3)
    assert trial.traffic()[:2] == (4 * PIECE, 4 * PIECE)


def test_nothing_is_read_ahead_while_a_demand_read_is_under_way():
    trial = LaneTrial(lanes=2)
    wanted = trial.submit(SMALL, demand=True)
    trial.begun(1)
    ahead = trial.submit(SMALL, demand=False)
    late = trial.submit(SMALL, demand=True)
    assert _records(trial.begun(2)) == [wanted, late]  # the second lane took it although `ahead` came first
    trial.open(2)
    assert _records(trial.begun(3)) == [wanted, late, ahead]


@pytest.mark.parametrize("most", [1, 2])
def test_so_many_lanes_read_ahead_at_once(most):
    trial = LaneTrial(lanes=3, most_speculative=most)
    for _ in range(3):
        trial.submit(SMALL, demand=False)
    trial.begun(most)
    wanted = trial.submit(SMALL, demand=True)
    assert _records(trial.begun(most + 1)) == [*range(most), wanted]


def test_lanes_share_a_record_and_its_matrices_become_ready_in_order():
    trial = LaneTrial(lanes=3)
    record = trial.submit(PARTS, demand=True)
    begun = sorted(trial.begun(3))
    assert begun == [(record, start, PIECE) for start in (0, PIECE, 2 * PIECE)]
    assert not trial.ready(record, 1)
    trial.open(3)
    trial.wait(record)
    assert [trial.ready(record, matrices) for matrices in (1, 2, 3)] == [True] * 3


def test_leading_matrices_are_ready_while_the_rest_is_read():
    trial = LaneTrial()
    record = trial.submit(PARTS, demand=True)
    for there in (0, 1, 2):
        assert trial.begun(there + 1)[-1] == (record, there * PIECE, PIECE)
        assert [trial.ready(record, matrices) for matrices in (1, 2, 3)] == [there >= 1, there >= 2, False]
        trial.open(1)
    trial.settle(record)
    assert trial.ready(record, 3)


def test_a_cancelled_read_keeps_nothing():
    trial = LaneTrial()
    running = trial.submit(LONG, demand=False)
    trial.begun(1)
    queued = trial.submit(LONG, demand=False)
    assert trial.cancel(queued) == 0 and trial.settled(queued)
    assert trial.cancel(running) == PIECE and not trial.settled(running)  # its piece is still being filled
    trial.open(1)
    trial.settle(running)
    assert not any(trial.ready(record, 1) for record in (running, queued))
    assert not any(trial.failed(record) for record in (running, queued))
    after = trial.submit(SMALL, demand=False)
    trial.open(1)
    assert _records(trial.begun(2)) == [running, after]


def test_a_promoted_read_goes_on_before_others_and_nothing_is_read_twice():
    trial = LaneTrial()
    first, second = (trial.submit(LONG, demand=False) for _ in range(2))
    trial.begun(1)
    trial.open(1)
    trial.begun(2)
    assert trial.promote(second) == 0
    assert trial.promote(first) == PIECE
    trial.open(8)
    pieces = trial.begun(4)
    assert pieces[:2] == [(first, 0, PIECE), (first, PIECE, PIECE)]
    assert pieces[2:] == [(second, 0, 4 * PIECE), (first, 2 * PIECE, 2 * PIECE)]  # in the order of promotion
    trial.settle(first)
    assert trial.ready(first, 3)
    assert trial.promote(first) == 4 * PIECE  # and nothing more happens
    assert trial.traffic()[:2] == (2 * PIECE, 6 * PIECE)


def test_who_waits_reads_what_no_lane_has_begun():
    trial = LaneTrial()
    trial.submit(SMALL, demand=True)
    trial.begun(1)
    record = trial.submit(SMALL, demand=True)
    waiting = threading.Thread(target=trial.wait, args=(record,))
    waiting.start()
    assert _records(trial.begun(2)) == [0, record]  # the only lane still holds the first
    trial.open(2)
    waiting.join()
    assert trial.ready(record, 3)


@pytest.mark.parametrize("demand", [True, False])
def test_a_failure_ends_the_read_and_not_the_lane(demand):
    trial = LaneTrial()
    bad = trial.submit(PARTS, demand=demand)
    trial.begun(1)
    trial.open(1)
    trial.begun(2)
    trial.open(1, fail=True)
    trial.settle(bad)
    assert trial.failed(bad) and trial.error(bad) == "record 0 is on a broken disk"
    assert not trial.ready(bad, 1)  # nothing of it is used any more
    good = trial.submit(SMALL, demand=demand)
    trial.open(1)
    trial.settle(good)
    assert _records(trial.begun(3)) == [bad, bad, good]
    assert trial.ready(good, 3)


def test_a_wrong_header_is_noticed_before_anything_is_ready():
    trial = LaneTrial()
    record = trial.submit(PARTS, demand=True, foreign=True)
    trial.open(3)
    trial.settle(record)
    assert trial.failed(record) and "wrong header" in trial.error(record)
    assert len(trial.begun()) == 1


def test_time_that_demand_shares_the_disk_is_counted():
    trial = LaneTrial()
    trial.submit(SMALL, demand=False)
    trial.begun(1)
    assert trial.traffic()[2:] == (0.0, 0.0)
    wanted = trial.submit(SMALL, demand=True)
    trial.open(1)
    trial.begun(2)
    _, _, demand, delayed = trial.traffic()
    assert 0.0 < delayed <= demand
    trial.open(1)
    trial.settle(wanted)
    assert trial.traffic()[3] == delayed
