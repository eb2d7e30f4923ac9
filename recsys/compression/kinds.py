"""The kinds of students among which validation chooses, made from one budget and the same teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.compression.clustered import clustered_student, like_teacher, write_start
from recsys.compression.codes import TrainedIds, trained_ids
from recsys.compression.students import LearnedCodes, coded_student, codes_for, hashed, unified_student
from recsys.config import ExperimentConfig, TeacherConfig
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


def students_of(
    base: ExperimentConfig, budget: str, kinds: Sequence[Kind], known: Known | None, teacher: TeacherConfig
) -> tuple[list[LearnedCodes], list[ExperimentConfig]]:
    """Return the codes that are tried, and a student of each kind.

    Raises ConfigError as `codes_for` and `like_teacher` do. known: needed for all kinds but unified.
    """
    codes: list[LearnedCodes] = []
    students = []
    for kind in kinds:
        if kind == "unified":
            students.append(unified_student(base, budget, teacher))
            continue
        assert known is not None
        if kind == "coded":
            learned = known.codes(base)
            students.append(coded_student(base, budget, learned, teacher))
        else:
            like = like_teacher(base, known.teachers[0])
            learned = known.codes(like)
            start = write_start(learned[0], known.trained, known.teachers, 0)
            students.append(clustered_student(like, budget, learned[0], start, teacher))
        codes += learned
    return codes, students
