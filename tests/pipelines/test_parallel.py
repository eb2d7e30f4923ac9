"""Threads change how long it takes, and nothing else."""

import threading
import time
from collections.abc import Iterator

import pytest

from recsys_pipelines.parallel import ordered


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int | None) -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(ordered(slow_first, range(20), threads)) == [i * i for i in range(20)]
    assert list(ordered(slow_first, [], threads)) == []


def test_few_items_are_drawn_ahead() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for i in range(100):
            drawn.append(i)
            yield i

    results = ordered(lambda i: i, items(), threads=2)
    assert next(results) == 0
    assert len(drawn) <= 3
    results.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_out_in_its_place_and_leaves_no_thread(threads: int) -> None:
    def work(i: int) -> int:
        if i == 5:
            raise ValueError("five")
        return i

    before = threading.active_count()
    results = ordered(work, range(50), threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_of_the_items_comes_after_the_results_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("disk")

    found = []
    with pytest.raises(OSError, match="disk"):
        found.extend(ordered(lambda i: i, items(), threads))  # extend keeps what came before the error
    assert found == [1, 2]
