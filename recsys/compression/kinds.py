"""The kinds of students among which validation chooses, made from one budget and the same teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.compression.clustered import clustered_student, like_teacher, write_start
from recsys.compression.codes import TrainedIds, trained_ids
from recsys.compression.students import LearnedCodes, coded_student, codes_for, hashed, unified_student
from recsys.config import ConfigError, ExperimentConfig, TeacherConfig
from recsys.training.run import Run
from recsys_cython_ext.progress import Progress
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

Kind = Literal["coded", "clustered", "unified"]
KINDS: dict[str, tuple[Kind, ...]] = {
    "auto": ("coded", "clustered", "unified"),
    "coded": ("coded",),
    "clustered": ("clustered",),
    "unified": ("unified",),
}


@dataclass(frozen=True)
class Known:
    """What codes are learned from: teachers, what they know of ids, and the limit in bytes."""

    limit: int
    teachers: list[Run]
    features: Features
    trained: TrainedIds
    runs: Path
    progress: Progress

    def codes(self, config: ExperimentConfig) -> list[LearnedCodes]:
        """Return the codes that fit, as an experiment of full tables says."""
        return codes_for(
            config, self.limit, self.trained, self.teachers, self.features, self.runs, self.progress
        )


def known_ids(
    config: ExperimentConfig,
    limit: int,
    teachers: list[Run],
    rows: Prepared,
    roots: tuple[Path, Path],
    progress: Progress,
) -> Known:
    """Return what the teachers know of ids that a student with hashed features reads; `rows` are the teachers'."""
    student = config.replace({"features": hashed(config)}, where=config.name)
    features = prepare(student.data, student.features, roots[1]).features()
    trained = trained_ids(teachers, Rows.load(rows, "train"), features, progress)
    return Known(limit, teachers, features, trained, roots[0], progress)


@dataclass(frozen=True)
class Students:
    """The experiment of each kind of student, the codes that they try, and why a kind was left out."""

    configs: dict[str, ExperimentConfig]
    codes: list[LearnedCodes]
    left_out: dict[str, str]


def students_of(
    base: ExperimentConfig, budget: str, kinds: Sequence[Kind], known: Known | None, teacher: TeacherConfig
) -> Students:
    """Make a student of each kind.

    Clustered ones are left out, where others are asked for too, if they cannot begin as their teacher or their codes of
    every id do not fit. Otherwise raises ConfigError as `codes_for` and `like_teacher` do.

    known: needed for all kinds but unified.
    """
    students = Students({}, [], {})
    for kind in kinds:
        if kind == "unified":
            students.configs[kind] = unified_student(base, budget, teacher)
            continue
        assert known is not None
        try:
            student, learned = (_coded if kind == "coded" else _clustered)(base, budget, known, teacher)
        except ConfigError as error:
            if kind == "coded" or len(kinds) == 1:
                raise
            students.left_out[kind] = str(error)
            continue
        students.configs[kind] = student
        students.codes.extend(learned)
    return students


def _coded(
    base: ExperimentConfig, budget: str, known: Known, teacher: TeacherConfig
) -> tuple[ExperimentConfig, list[LearnedCodes]]:
    learned = known.codes(base)
    return coded_student(base, budget, learned, teacher), learned


def _clustered(
    base: ExperimentConfig, budget: str, known: Known, teacher: TeacherConfig
) -> tuple[ExperimentConfig, list[LearnedCodes]]:
    like = like_teacher(base, known.teachers[0])
    learned = known.codes(like)
    start = write_start(learned[0], known.trained, known.teachers, 0)
    return clustered_student(like, budget, learned[0], start, teacher), learned
