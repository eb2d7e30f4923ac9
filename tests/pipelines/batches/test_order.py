import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_pipelines.batches.order import LANES, RUN, WINDOW, epoch_order, num_batches


def whole(*arguments, **keys):
    return list(epoch_order(*arguments, **keys))


def once(batches, rows):
    return sorted(np.concatenate([np.empty(0, int), *batches]).tolist()) == list(range(rows))


@given(
    rows=st.integers(0, 3000),
    share=st.integers(1, 8),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
    window=st.integers(LANES, 4000),
)
@settings(max_examples=80)
def test_every_row_comes_once_in_an_epoch(rows, share, seed, epoch, window):
    batches = whole(rows, LANES * share, seed, epoch, window=window)
    assert once(batches, rows)
    assert all(len(batch) == LANES * share for batch in batches[:-1])
    assert all(0 < len(batch) <= LANES * share for batch in batches)
    assert len(batches) == -(-rows // (LANES * share)) == num_batches(rows, LANES * share)


def test_an_order_repeats_itself_and_no_other():
    def order(seed, epoch):
        return np.concatenate(whole(1000, 128, seed, epoch)).tolist()

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert orders == [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_a_batch_draws_the_same_share_from_every_lane():
    for batch in whole(64 * 50, 128, 0, 0):
        assert np.bincount(batch // 50).tolist() == [2] * LANES


@pytest.mark.parametrize("rows", [5, 1000, 64 * 300 + 17])
def test_a_lane_within_its_window_is_one_permutation(rows):
    """Results that are published depend on it."""
    bounds = np.arange(LANES + 1) * rows // LANES
    lanes = []
    for lane in range(LANES):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([7, 3, lane])))
        lanes.append(bounds[lane] + generator.permutation(bounds[lane + 1] - bounds[lane]))
    for k, batch in enumerate(whole(rows, 128, 7, 3)):
        assert batch.tolist() == np.concatenate([lane[2 * k : 2 * k + 2] for lane in lanes]).tolist()


# Windows


@given(
    rows=st.integers(0, 20_000),
    share=st.integers(1, 5),
    window=st.integers(LANES, 6000),
    start=st.integers(0, 60),
    ranks=st.sampled_from([1, 2, 8, 64]),
)
@settings(max_examples=80)
def test_a_later_start_is_the_rest_of_the_epoch(rows, share, window, start, ranks):
    arguments, keys = (rows, LANES * share, 1, 2), {"window": window, "rank": ranks - 1, "ranks": ranks}
    expected = whole(*arguments, **keys)[start:]
    assert [b.tolist() for b in whole(*arguments, **keys, start=start)] == [b.tolist() for b in expected]


def test_runs_of_a_large_lane_are_short_at_their_end():
    rows, window = 64 * (5 * RUN + 100), 64 * 2 * RUN
    for seed in range(4):  # the short run falls into any group
        batches = whole(rows, 64 * 128, seed, 0, window=window)
        assert once(batches, rows)
        k = len(batches) // 2
        assert (
            next(epoch_order(rows, 64 * 128, seed, 0, window=window, start=k)).tolist() == batches[k].tolist()
        )


def test_a_lane_reads_whole_runs_within_a_window():
    """At any time a lane is in one group: few runs, all of whose rows come before the next group's."""
    rows, window, per_group = 64 * 64 * RUN, 64 * 4 * RUN, 4
    order = np.concatenate(
        [batch.reshape(LANES, -1)[5] for batch in whole(rows, 64 * 256, 0, 0, window=window)]
    )
    groups = order.reshape(-1, per_group * RUN)
    runs = [np.unique(group // RUN) for group in groups]
    assert all(len(found) == per_group for found in runs)
    assert np.concatenate(runs).tolist() != sorted(np.concatenate(runs).tolist())
    assert all(group.tolist() != sorted(group.tolist()) for group in groups)
    inner = [np.argsort(group) % RUN for group in groups]  # no two groups share a permutation
    assert len({found.tobytes() for found in inner}) == len(inner)


def test_rows_far_apart_meet():
    """Runs of a group come from all over the lane."""
    batch = next(epoch_order(64 * 64 * RUN, 64 * 256, 0, 0, window=64 * 8 * RUN)).reshape(LANES, -1)
    spread = (batch.max(axis=1) - batch.min(axis=1)) / (64 * RUN)
    assert np.median(spread) > 0.6


@pytest.mark.parametrize("start", [0, 2000])
def test_memory_is_that_of_the_window(start):
    """10^7 rows whose order would take 80 MB; the window's 2^16 take half of one."""
    tracemalloc.start()
    order = epoch_order(10**7, 4096, 0, 0, window=2**17, start=start)
    for _ in range(40):
        assert len(next(order)) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


# Ranks


@pytest.mark.parametrize("ranks", [1, 2, 4, 64])
@pytest.mark.parametrize("rows", [0, 3, 700, 5000])
def test_ranks_share_every_batch(ranks, rows):
    keys = {"window": 1280}
    together = whole(rows, 256, 0, 1, **keys)
    parts = [whole(rows, 256, 0, 1, **keys, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {len(together)}
    for k, batch in enumerate(together):
        slices = [part[k] for part in parts]
        if ranks > 1:
            assert {len(one) for one in slices} == {256 // ranks}
        found = np.concatenate(slices)
        assert sorted(found[found >= 0].tolist()) == sorted(batch.tolist())


def test_a_rank_has_its_lanes_only():
    for batch in whole(6400, 128, 0, 0, rank=3, ranks=16):
        assert set((batch // 100).tolist()) == {3, 19, 35, 51}


# Errors


@pytest.mark.parametrize("batch_size", [0, 1, 63, 100, -64])
def test_batch_sizes_that_do_not_divide_into_lanes_are_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} is not a multiple of 64"):
        epoch_order(10, batch_size, 0, 0)


@pytest.mark.parametrize(
    ("ranks", "near"),
    [(3, "2 or 4"), (0, "1"), (-2, "1"), (48, "32 or 64"), (65, "64"), (1000, "64"), (5, "4 or 8")],
)
def test_ranks_that_do_not_divide_lanes_are_refused(ranks, near):
    with pytest.raises(ValueError, match=f"{ranks} ranks cannot share 64 lanes; {near} can"):
        epoch_order(10, 64, 0, 0, ranks=ranks)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": 2, "ranks": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"rank": -1}, r"rank must be in \[0, 1\), got -1"),
        ({"window": 63}, "window 63 is less than 64"),
        ({"start": -1}, "start must be >= 0, got -1"),
    ],
)
def test_other_arguments_that_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        epoch_order(10, 64, 0, 0, **keys)


def test_the_default_window_keeps_published_orders():
    assert WINDOW == 2**20
