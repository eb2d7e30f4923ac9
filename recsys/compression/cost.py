"""What students will cost, said before anything is trained."""

from collections.abc import Sequence

from recsys.compression.codes import clustering_seconds
from recsys.compression.students import CHUNKS_FROM, teacher_of_students
from recsys.config import ExperimentConfig
from recsys.cost import COPIES, LONG_ROWS, Cost, Measured, measure_speed, table_bytes
from recsys_pipelines.preparation.prepared import Prepared


def trainings(config: ExperimentConfig, kinds: Sequence[str], seeds: int) -> dict[str, int]:
    """Count what `distillation.run_distillation` will train, by its steps."""
    trials = config.compression.students.trials
    of_full = trials if trials > 1 else 0
    teacher = teacher_of_students(config)
    runs = {
        "trials of the full table": of_full,
        "teachers": 0 if teacher.predictions is not None else len(teacher.seeds),
        "trials of students": len(kinds) * trials,
    }
    if seeds:
        runs |= {"trials of the full table with the teacher": of_full, "seeds of three arms": 3 * seeds}
    return runs


def is_long(config: ExperimentConfig, kinds: Sequence[str], prepared: Prepared, seeds: int) -> bool:
    """Tell whether so many rows are to be trained on that the time is worth measuring."""
    epochs = config.compression.students.epochs * config.training.epochs
    count = sum(trainings(config, kinds, seeds).values())
    return count * epochs * prepared.manifest.splits["train"].rows >= LONG_ROWS


def expected_cost(
    config: ExperimentConfig, kinds: Sequence[str], prepared: Prepared, seeds: int, jobs: int
) -> Cost:
    """Measure some batches, and count what `distillation.run_distillation` will train.

    Tables in training are the full ones: making them small takes as much as training them.
    """
    runs = trainings(config, kinds, seeds)
    codes = runs["teachers"] > 0 and {"coded", "clustered"} & set(kinds)
    speed, full = measure_speed(config, prepared), table_bytes(config, prepared)
    epochs = config.compression.students.epochs * config.training.epochs
    on_disk = sum(file.stat().st_size for file in prepared.path.rglob("*") if file.is_file())
    kept = runs["teachers"] + (3 * seeds if seeds else 0)
    return Cost(
        runs=runs,
        seconds=speed.seconds(epochs) * sum(runs.values()) / max(1, jobs)
        + (_codes_seconds(config, prepared, speed, runs["teachers"]) if codes else 0.0),
        memory=jobs * speed.memory + (_codes_memory(config, prepared, runs["teachers"]) if codes else 0),
        disk=2 * on_disk + (kept + COPIES * jobs) * full,
        peak_table_bytes=full,
    )


def _codes_seconds(config: ExperimentConfig, prepared: Prepared, speed: Measured, teachers: int) -> float:
    """Return the time that codes take: a pass over the rows for each teacher, and k-means for each minimum count."""
    students, num_ids = config.compression.students, _num_ids(prepared)
    chunks = students.chunks or (1 if num_ids < CHUNKS_FROM else 2)
    width = teachers * config.tables.embedding_dim // chunks
    clustering = chunks * clustering_seconds(num_ids, width, students.max_rows)
    return teachers * speed.seconds(1) + len(students.min_counts) * clustering


def _codes_memory(config: ExperimentConfig, prepared: Prepared, teachers: int) -> int:
    """Return the bytes of the teachers' rows: as they are read, of the ids of training, and of those that get codes."""
    return 3 * 4 * teachers * config.tables.embedding_dim * _num_ids(prepared)


def _num_ids(prepared: Prepared) -> int:
    return sum(feature.num_codes or 0 for feature in prepared.features().categorical)
