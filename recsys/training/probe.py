"""What a training will need is measured on a few of its batches, before it is begun."""

import time
from contextlib import suppress
from dataclasses import dataclass

from recsys.config import ExperimentConfig
from recsys.training.distributed import default_device, peak_memory, process_group
from recsys.training.loop import Watch, fit
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared

SECONDS = 2.0  # of batches that are measured


@dataclass(frozen=True)
class Measured:
    """Rows a second that training takes in this process, its peak memory in bytes, and rows of an epoch."""

    rows_per_second: float
    memory: int
    rows: int


class _Enough(Exception):
    """Enough batches were measured."""


def measure_speed(config: ExperimentConfig, prepared: Prepared, seconds: float = SECONDS) -> Measured:
    """Train for so many seconds, or for what there is, and keep nothing. Raises ValueError as `fit` does."""
    train, validation = (Rows.load(prepared, split) for split in ("train", "validation"))
    times: list[float] = []

    def step() -> None:
        times.append(time.perf_counter())  # the first batch warms up
        if times[-1] - times[0] >= seconds:
            raise _Enough

    with suppress(_Enough), process_group():
        fit(config.replace({"training.epochs": 1}), train, validation, watch=Watch(step=step))
    passed = max(times[-1] - times[0], 1e-9)
    rows = min(config.training.batch_size, len(train))
    speed = rows * max(1, len(times) - 1) / passed
    return Measured(speed, peak_memory(default_device()), len(train))
