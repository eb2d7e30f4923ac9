"""What trainings will cost: time, memory and disk, measured on a few batches, or told from the first seconds of one.

A `--dry-run` measures. Before work that is long by its number of rows it is measured too; what is short is not held up.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from recsys.config import ExperimentConfig
from recsys.planning import plan_of
from recsys.training.distributed import peak_memory, process_group
from recsys.training.loop import Watch, fit
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.device import default_device

COPIES = 3  # of a run's tables on disk while it trains: two checkpoints and the best evaluation
SECONDS = 2.0  # of batches that are measured
LONG_ROWS = 5_000_000  # to be trained on: one or two minutes of a core
LONG_SECONDS = 60.0  # of a training that is announced
FIRST_SECONDS = 5.0  # of a training, from which the rest is told


@dataclass(frozen=True)
class Measured:
    """Rows a second that training takes in this process, its peak memory in bytes, and rows of an epoch."""

    rows_per_second: float
    memory: int
    rows: int

    def seconds(self, epochs: int) -> float:
        """Return the time of a training, at most: it may stop early."""
        return epochs * self.rows / self.rows_per_second


@dataclass(frozen=True)
class Cost:
    """What trainings need at most; runs that stop early, and what is there already, make it less.

    Attributes:
        runs: Trainings of each step, by its name.
        seconds: Of all steps, `jobs` trainings at a time.
        memory: Bytes of all processes that train at a time.
        disk: Bytes that are written below the folders of runs and of prepared data.
        peak_table_bytes: Of the largest tables in training.
    """

    runs: Mapping[str, int]
    seconds: float
    memory: int
    disk: int
    peak_table_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**vars(self), "runs": dict(self.runs)}

    @property
    def sentence(self) -> str:
        """Return time, memory and disk in words."""
        return (
            f"at most {duration(self.seconds)} on this machine, {amount(self.memory)} of memory, "
            f"{amount(self.disk)} of disk; tables of {self.peak_table_bytes:,} bytes in training"
        )


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

    config = untaught(config).replace({"training.epochs": 1})
    with suppress(_Enough), process_group():
        fit(config, train, validation, watch=Watch(step=step))
    passed = max(times[-1] - times[0], 1e-9)
    rows = min(config.training.batch_size, len(train))
    speed = rows * max(1, len(times) - 1) / passed
    return Measured(speed, peak_memory(default_device()), len(train))


def untaught(config: ExperimentConfig) -> ExperimentConfig:
    """Return an experiment without its teacher, whose runs need not be there then."""
    return config if config.training.teacher is None else config.replace({"training.teacher": None})


def teachers_of(config: ExperimentConfig) -> int:
    """Return how many runs must be trained before those of an experiment."""
    teacher = config.training.teacher
    return 0 if teacher is None or teacher.predictions is not None else len(teacher.seeds)


def table_bytes(config: ExperimentConfig, prepared: Prepared) -> int:
    """Return the bytes of an experiment's tables in training."""
    return plan_of(untaught(config), prepared.features()).bytes.total


def cost_of_run(config: ExperimentConfig, prepared: Prepared) -> Cost:
    """Measure some batches of one training; its teachers, where it has such, are taken to be as fast as it is."""
    speed, size = measure_speed(config, prepared), table_bytes(config, prepared)
    runs = {"teachers": teachers_of(config), "training runs": 1}
    trainings = sum(runs.values())
    seconds = trainings * speed.seconds(config.training.epochs)
    return Cost(runs, seconds, speed.memory, (trainings + COPIES) * size, size)


def duration(seconds: float) -> str:
    """Return a length of time in words."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def amount(size: float) -> str:
    """Return bytes in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6)):,} MB"


class Forecast:
    """Says once how long a training will take, from its own first seconds, which costs nothing; not of a short one.

    `prepared` is what it trains on, once that is known: its tables say what disk is needed.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prepared: Prepared | None = None
        self._config, self._say, self._clock = config, say, clock
        self._began: tuple[float, int] | None = None
        self._is_said = False

    def progress(self, stage: str, batch: int, of: int | None) -> None:
        """Take note that a batch of an epoch, whose number is in the name of the stage, is done."""
        match = re.fullmatch(r"epoch (\d+)", stage)
        if self._is_said or match is None or of is None:
            return
        now, done = self._clock(), (int(match[1]) - 1) * of + batch
        if self._began is None:
            self._began = now, done  # the first batch warms up
        seconds, batches = now - self._began[0], done - self._began[1]
        if seconds < FIRST_SECONDS or batches == 0:
            return
        self._is_said = True
        left = (self._config.training.epochs * of - done) * seconds / batches
        if seconds + left >= LONG_SECONDS:
            self._say(f"expect at most {duration(left)} more{self._needs()}")

    def _needs(self) -> str:
        if self.prepared is None:
            return ""
        disk = (1 + COPIES) * table_bytes(self._config, self.prepared)
        return f", {amount(peak_memory(default_device()))} of memory, {amount(disk)} of disk"
