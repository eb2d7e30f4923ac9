"""What students will cost: time, memory and disk, measured on a few batches and said before anything is trained."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from recsys.compression.students import teacher_of_students
from recsys.config import ExperimentConfig
from recsys.planning import plan_of
from recsys.training.distributed import default_device, peak_memory, process_group
from recsys.training.loop import Watch, fit
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared

COPIES = 3  # of a run's tables on disk while it trains: two checkpoints and the best evaluation
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


@dataclass(frozen=True)
class Cost:
    """What a compression needs at most; runs that stop early, and what is there already, make it less.

    Attributes:
        runs: Trainings of each step, by its name.
        seconds: Of all steps, `jobs` trainings at a time.
        memory: Bytes of all processes that train at a time.
        disk: Bytes that are written below the folders of runs and of prepared data.
        peak_table_bytes: Of tables in training, which are the full table's: making it small takes as much as training it.
    """

    runs: Mapping[str, int]
    seconds: float
    memory: int
    disk: int
    peak_table_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**vars(self), "runs": dict(self.runs)}


def expected_cost(
    config: ExperimentConfig, kinds: Sequence[str], prepared: Prepared, seeds: int, jobs: int
) -> Cost:
    """Measure some batches, and count what `distillation.run_distillation` will train."""
    students = config.compression.students
    trials = students.trials
    of_full = trials if trials > 1 else 0
    teacher = teacher_of_students(config)
    teachers = 0 if teacher.predictions is not None else len(teacher.seeds)
    runs = {"trials of the full table": of_full, "teachers": teachers}
    runs |= {"trials of students": len(kinds) * trials}
    if seeds:
        runs |= {"trials of the full table with the teacher": of_full, "seeds of three arms": 3 * seeds}
    untaught = config.replace({"training.teacher": None})
    speed = measure_speed(untaught, prepared)
    seconds_an_epoch = speed.rows / speed.rows_per_second
    seconds = students.epochs * config.training.epochs * seconds_an_epoch * sum(runs.values()) / max(1, jobs)
    full = plan_of(untaught, prepared.features()).bytes.total
    on_disk = sum(file.stat().st_size for file in prepared.path.rglob("*") if file.is_file())
    kept = teachers + (3 * seeds if seeds else 0)
    return Cost(
        runs=runs,
        seconds=seconds,
        memory=jobs * speed.memory,
        disk=2 * on_disk + (kept + COPIES * jobs) * full,
        peak_table_bytes=full,
    )
