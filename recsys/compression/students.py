"""Students are experiments of small tables that hash their ids and learn from teachers.

<runs>/codes/<digest>/      codes of one minimum count and number of rows (`recsys_tables.codes`)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.compression.codes import TrainedIds, learned_codes, row_use
from recsys.config import ConfigError, ExperimentConfig, TeacherConfig, parse_experiment
from recsys.planning import statistics_bytes
from recsys.training.run import Run
from recsys_cython_ext.files import digest, lock_of, locked, text_digest
from recsys_cython_ext.progress import Progress
from recsys_cython_ext.static_function import static_function_bytes
from recsys_pipelines.declared_feature import EncodedFeature
from recsys_pipelines.features import Features
from recsys_tables.bytes import row_bytes
from recsys_tables.codes import MAX_VALUES, Codes, num_values

VERSION = 2  # of how codes are learned
CHUNKS_FROM = 1_000_000  # ids that get two chunks unless the experiment says how many
INIT = "tables.init_bound"
MARGIN = 1.02  # of the bytes of a static function, which may need a few more slots than most do


@dataclass(frozen=True)
class LearnedCodes:
    """Codes of one setting, and how their rows are used.

    Attributes:
        folder: Where they are kept.
        min_count: Impressions in training of an id that has codes.
        num_ids: Such ids, of all features.
        num_rows: Rows of all chunks, with those for ids without codes.
        used_rows: Those that some ids read; others are dead.
        shared_rows: Those that ids of several features read.
        bytes: Of the tables in training, and of the codes.
    """

    folder: Path
    min_count: int
    num_ids: int
    num_rows: int
    used_rows: int
    shared_rows: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return vars(self) | {"folder": str(self.folder)}


def hashed(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Return the features of an experiment as plain values, with every id hashed that can be.

    Fixed vocabularies, parts of dates and buckets stay; a sequence that is `like` a feature follows it.
    """
    raw: list[dict[str, Any]] = config.model_dump(mode="json", exclude_unset=True)["features"]
    for declared, feature in zip(raw, config.features, strict=True):
        if isinstance(feature, EncodedFeature) and getattr(feature, "vocabulary", None) is None:
            for key in ("min_count", "unknown", "keep", "form"):
                declared.pop(key, None)
            if getattr(feature, "like", None) is None:
                declared["encoding"] = "hash"
    return raw


def with_means(config: ExperimentConfig) -> ExperimentConfig:
    """Return an experiment with the trials and the epochs that its students get, and without a teacher.

    Its own `tuning.space` is tried, and three learning rates where it has none.
    """
    students, tuning, lr = config.compression.students, config.tuning, config.training.table_lr
    return config.replace(
        {
            "tuning.trials": students.trials,
            "tuning.space": tuning.model_dump(mode="json")["space"]
            or {"training.table_lr": [lr, lr / 2, 2 * lr]},
            "training.epochs": students.epochs * config.training.epochs,
            "training.teacher": None,
        },
        where=config.name,
    )


def teacher_of_students(config: ExperimentConfig) -> TeacherConfig:
    """Return the teacher that an experiment of full tables names, or runs of its own."""
    return config.training.teacher or TeacherConfig(runs=config.compression.students.teachers)


def unified_student(config: ExperimentConfig, budget: str, teacher: TeacherConfig | None) -> ExperimentConfig:
    """Return the student whose tables are unified: `config` is of full tables and has its means already."""
    dims = config.tables.embedding_dim
    chunk_dims = [dim for dim in (8, 4, 16) if dims % dim == 0] or [dims]
    tables = {"scheme": "unified", "chunk_dim": chunk_dims[0], "budget": budget}
    return _student(config, "unified", tables, {"tables.chunk_dim": chunk_dims}, teacher)


def coded_student(
    config: ExperimentConfig, budget: str, codes: Sequence[LearnedCodes], teacher: TeacherConfig | None
) -> ExperimentConfig:
    """Return the student whose tables are coded: the codes are tried, the first ones first."""
    folders = [str(learned.folder) for learned in codes]
    tables = {"scheme": "coded", "codes": folders[0], "budget": budget}
    return _student(config, "coded", tables, {"tables.codes": folders}, teacher)


def codes_for(
    config: ExperimentConfig,
    limit: int,
    trained: TrainedIds,
    teachers: Sequence[Run],
    student: Features,
    runs: Path,
    progress: Progress,
) -> list[LearnedCodes]:
    """Learn the codes that fit, of every minimum count and with as many rows as fit; what is there is taken.

    Args:
        config: The experiment of full tables.
        limit: Bytes that the student's tables may have.
        trained: What the teachers know of ids.
        teachers: Their runs.
        student: The student's features.
        runs: The folder that codes are kept below.
        progress: Is told how many codes of how many are there.

    Raises:
        ConfigError: No id occurs often enough, or the codes alone are more than the budget.
    """
    settings = config.compression.students
    fixed = sum(feature.vocabulary_bytes for feature in student.categorical) + statistics_bytes(student)
    variants: dict[int, tuple[int, int, int]] = {}  # by the number of ids
    for min_count in settings.min_counts:
        num_ids = trained.num_seen(min_count)
        if not num_ids or num_ids in variants:
            continue
        chunks = settings.chunks or (1 if num_ids < CHUNKS_FROM else 2)
        rows = most_rows(config, limit - fixed, num_ids, chunks)
        if rows > 1:
            variants[num_ids] = (min_count, chunks, rows)
    if not variants:
        raise ConfigError(_why_none(config, limit, fixed, trained))
    learned = []
    for number, (min_count, chunks, rows) in enumerate(variants.values(), start=1):
        ids = trained.seen(min_count)
        learned.append(_learned(config, ids, min_count, chunks, rows, teachers, runs, progress))
        progress("codes", number, len(variants))
    return sorted(learned, key=lambda codes: -codes.num_rows)


def most_rows(config: ExperimentConfig, limit: int, num_ids: int, num_chunks: int) -> int:
    """Return the most rows of each of `num_chunks` tables that fit `limit` bytes with the codes of so many ids; 0 if none.

    No more than `compression.students.max_rows`, nor more than there are ids.
    """
    low, high = 0, min(config.compression.students.max_rows, num_ids, int(MAX_VALUES ** (1 / num_chunks)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if _bytes(config, middle, num_ids, num_chunks) <= limit else (low, middle - 1)
        )
    return low


def _bytes(config: ExperimentConfig, rows: int, num_ids: int, num_chunks: int) -> int:
    return _table_bytes(config, rows, num_chunks) + int(
        MARGIN * static_function_bytes(num_ids, num_values(rows, num_chunks))
    )


def _table_bytes(config: ExperimentConfig, rows: int, num_chunks: int) -> int:
    """Return the bytes in training of `num_chunks` shared tables of so many rows that codes name, and one."""
    width, precision = config.tables.embedding_dim // num_chunks, config.compression.students.precision
    return num_chunks * (rows + 1) * row_bytes(width, config.training.table_optimizer, precision)


def _learned(
    config: ExperimentConfig,
    ids: TrainedIds,
    min_count: int,
    num_chunks: int,
    rows: int,
    teachers: Sequence[Run],
    runs: Path,
    progress: Progress,
) -> LearnedCodes:
    """Learn codes, or open those that are there."""
    seed = config.compression.students.seed
    contents = [
        VERSION,
        [run.checkpoint_digest for run in teachers],
        min_count,
        num_chunks,
        rows,
        seed,
        {name: digest(values.tobytes()) for name, values in ids.ids.items()},
    ]
    folder = runs / "codes" / text_digest(json.dumps(contents))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(folder)):
        if not folder.exists():
            learned_codes(ids, rows, num_chunks, seed, progress).save(folder)
    codes = Codes.open(folder)
    tables = _table_bytes(config, rows, num_chunks)
    used, shared = row_use(codes, ids.ids)
    return LearnedCodes(
        folder, min_count, len(ids), num_chunks * (rows + 1), used + num_chunks, shared, codes.nbytes + tables
    )


def _why_none(config: ExperimentConfig, limit: int, fixed: int, trained: TrainedIds) -> str:
    least = max(config.compression.students.min_counts)
    often = trained.seen(least)
    where = f"{config.name}: compression.students.min_counts"
    if not len(often):
        return (
            f"{where}: no id of training has {min(config.compression.students.min_counts)} impressions, of {len(trained)} "
            "ids in all: list a smaller count"
        )
    needed = fixed + _bytes(config, 2, len(often), config.compression.students.chunks or 1)
    return (
        f"{where}: codes of the {len(often):,} ids with {least} impressions and two rows take {needed:,} bytes, and the "
        f"budget is {limit:,}: give a larger budget, or list a higher minimum count"
    )


def _student(
    config: ExperimentConfig,
    kind: str,
    tables: dict[str, Any],
    space: dict[str, Any],
    teacher: TeacherConfig | None,
) -> ExperimentConfig:
    raw = config.model_dump(mode="json", exclude_unset=True)
    old = config.tables
    raw["name"] = f"{config.name}-{kind}"
    raw["features"] = hashed(config)
    raw["tables"] = {
        "embedding_dim": old.embedding_dim,
        "init_bound": old.init_bound,
        "budget_embedding_dim": old.budget_embedding_dim,
        "precision": config.compression.students.precision,
        **tables,
    }
    training = raw.setdefault("training", {})
    training.pop("start", None)  # of full tables
    training.pop("teacher", None)
    if teacher is not None:
        training["teacher"] = teacher.model_dump(mode="json", exclude_unset=True)
    tuning = raw.setdefault("tuning", {})
    kept = {k: v for k, v in tuning.get("space", {}).items() if k.startswith("training.") or k == INIT}
    tuning["space"] = kept | space
    return parse_experiment(raw, f"{config.name}: {kind}")
