"""Where the time goes, and which rank is slow."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from recsys.training.clock import StepClock, stragglers
from recsys_tables.engine.embeddings import Embeddings


@pytest.mark.parametrize(
    ("busy", "slow"),
    [
        ([10.0], {}),
        ([10, 10.5, 9, 11], {}),
        ([10, 31, 10, 12], {1: 3.1}),
        ([10, 20], {1: 2.0}),  # of two, the faster is what is usual
        ([30, 10, 30, 10], {0: 3.0, 2: 3.0}),
        ([0.1, 0.9, 0.1, 0.1], {}),  # a second or less is noise
    ],
)
def test_a_slow_rank_is_one_that_works_longer_than_most(busy: list[float], slow: dict[int, float]) -> None:
    assert stragglers(busy, 1.5) == pytest.approx(slow)


class Model(nn.Module):
    """The parts of a click model that the clock listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = nn.Module()
        self.engine.combiner = Combiner()

    def forward(self, x: Tensor) -> Tensor:
        return self.engine.combiner(x).values().sum()


class Combiner(nn.Module):
    def forward(self, x: Tensor) -> Embeddings:
        return Embeddings({"a": 1}, x * 2, {})


@pytest.fixture
def time_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    return pass_by


def test_seconds_are_counted_for_what_they_were_spent_on(time_is: Callable[[float], None]) -> None:
    model = Model()
    clock = StepClock(model)  # type: ignore[arg-type]

    def batches() -> Iterator[int]:
        for number in range(2):
            time_is(3)  # to be made
            yield number

    for _ in clock.loaded(batches()):
        clock.begin()
        time_is(5)  # looking up
        loss = model(torch.ones(2, 1, requires_grad=True))
        time_is(7)  # the network
        clock.forward_done()
        time_is(100)  # waiting for the loss of other ranks
        clock.begin()
        time_is(11)  # the network's gradients
        loss.backward()
        time_is(13)  # the tables'
        clock.tables_done()
        time_is(17)  # the optimiser
        clock.dense_done()
    assert clock.read() == {
        "tables": 2 * (5 + 13),
        "dense": 2 * (7 + 11 + 17),
        "loading": 2 * 3,
        "busy": 2 * (3 + 7),
    }
    assert not any(clock.read().values()), "it begins anew"
    clock.remove()
    time_is(1)
    model(torch.ones(2, 1))
    assert not any(clock.read().values())


def test_an_evaluation_is_no_time_of_a_step(time_is: Callable[[float], None]) -> None:
    model = Model()
    clock = StepClock(model)  # type: ignore[arg-type]
    clock.begin()
    with torch.no_grad():
        time_is(9)
        model(torch.ones(2, 1))
    assert clock.read()["tables"] == 0
    clock.remove()
