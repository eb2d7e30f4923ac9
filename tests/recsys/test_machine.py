"""The machine is measured, and whether bfloat16 pays is read off the figures."""

import json

import pytest
import torch

from recsys import machine
from recsys.machine import Machine, Speed, measure
from recsys_cython_ext.threads import available_cores


def test_every_figure_is_measured_and_threads_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BATCH", 8)
    before = torch.get_num_threads()
    measured = measure(seconds=0, rows=100)
    assert [speed.threads for speed in measured.speeds] == sorted({1, available_cores()})
    assert all(value > 0 for speed in measured.speeds for value in vars(speed).values())
    assert torch.get_num_threads() == before
    plain = json.loads(json.dumps(measured.to_dict()))
    assert plain["speeds"][0]["threads"] == 1
    assert plain["bf16_pays"] is measured.bf16_pays


@pytest.mark.parametrize(
    ("one", "all_threads", "verdict"),
    [
        (200.0, 300.0, "pays on this CPU: its matrix products are 1.5 times"),
        (200.0, 230.0, "does not pay"),
        (50.0, 900.0, "0.5"),
    ],
)
def test_bf16_pays_where_it_is_faster_on_any_number_of_threads(
    one: float, all_threads: float, verdict: str
) -> None:
    found = Machine((Speed(1, 100.0, one, 1e8), Speed(2, 200.0, all_threads, 2e8)))
    assert verdict in found.sentence
    assert found.bf16_pays is ("1.5" in found.sentence)
