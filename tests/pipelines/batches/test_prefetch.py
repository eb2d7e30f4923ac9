import gc
import threading
import time

import pytest

from recsys_pipelines.batches.prefetch import prefetched

OTHERS = set()  # threads of tests that ran before in this process, and whose batches somebody still holds


def alive():
    return [t for t in threading.enumerate() if t.name == "recsys-prefetch" and t not in OTHERS]


@pytest.fixture(autouse=True)
def no_thread_survives():
    OTHERS.update(alive())
    yield
    assert alive() == []


@pytest.mark.parametrize("depth", [1, 2, 50])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_order_is_kept(n, depth):
    assert list(prefetched(range(n), depth)) == list(range(n))
    assert list(prefetched((i for i in range(n)), depth)) == list(range(n))


def test_none_is_an_item():
    assert list(prefetched([None, None])) == [None, None]


@pytest.mark.parametrize("depth", [1, 3])
def test_so_many_are_made_ahead(depth):
    made = []
    items = prefetched((made.append(i) or i for i in range(100)), depth)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(made) < 1 + depth and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(made) == 1 + depth
    items.close()


def test_items_are_made_while_others_are_used():
    arrived = threading.Event()

    def source():
        yield 0
        arrived.set()
        yield 1

    items = prefetched(source())
    assert next(items) == 0
    assert arrived.wait(10)
    assert list(items) == [1]


def test_exceptions_come_in_their_place():
    def source():
        yield 1
        yield 2
        raise KeyError("three")

    items = prefetched(source())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="three"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_what_is_no_iterable():
    with pytest.raises(TypeError, match="not iterable"):
        next(prefetched(3))


def test_closing_stops_the_thread_and_closes_the_source():
    closed = []

    def source():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    items = prefetched(source())
    next(items)
    assert len(alive()) == 1
    items.close()
    assert alive() == []
    assert closed == ["recsys-prefetch"]


def test_leaving_a_loop_stops_the_thread():
    def first():
        for item in prefetched(iter(int, 1)):
            return item

    assert first() == 0
    assert alive() == []


def test_an_error_in_the_loop_stops_the_thread():
    def fail():
        for item in prefetched(iter(int, 1)):
            1 / item

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert caught.traceback, "even while the frame of the loop is kept"
    assert alive() == []


def test_garbage_stops_the_thread():
    items = prefetched(iter(int, 1))
    next(items)
    cycle = [items]
    cycle.append(cycle)
    del items, cycle
    gc.collect()
    assert alive() == []


def test_nothing_begins_before_the_first_item():
    items = prefetched(iter(int, 1))
    assert alive() == []
    items.close()


def test_depth_below_one():
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        prefetched([], 0)
