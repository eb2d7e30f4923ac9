"""An experiment gets small tables from teachers: their runs, codes of their rows, students, seeds and an artefact.

<runs>/<name>-students-<digest>/<budget>/<kind>.yaml    what each student is trained as, and the artefact of the best one

Runs, codes, predictions and trials are kept, so the same command goes on where it was.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from recsys.comparison.experiments import Arm, Chosen, Result, choose, run_comparison
from recsys.comparison.pool import trained_in
from recsys.compression.kinds import Kind, known_ids, students_of
from recsys.compression.stages import require_full_tables
from recsys.compression.students import (
    LearnedCodes,
    teacher_of_students,
    with_means,
)
from recsys.config import ConfigError, ExperimentConfig, TeacherConfig
from recsys.planning import plan_of
from recsys.serving.export import export
from recsys.training.labels import check_measured
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.teacher import teacher_runs
from recsys.training.train import with_teacher
from recsys_cython_ext.files import text_digest, write_text
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.schemes.declared import budget_bytes, check_budget
from recsys_tables.serving.quantise import Dtype

STUDENT = 2  # its place among the arms


@dataclass(frozen=True)
class DistillationResult:
    """What became of the students of an experiment.

    Attributes:
        config: The experiment of full tables.
        budget: As it was declared; `budget_bytes` are of the full table's `full_bytes`.
        teachers: Their finished runs.
        codes: The codes that were tried; none where no student is coded.
        students: The file of each student with the settings that validation chose, by kind.
        scores: The monitored metric of each student on validation, higher is better, by kind.
        chosen: The kind that did best on validation.
        left_out: Why a kind was not tried, by kind.
        compared: The full table, it with the same teacher, the chosen student and rivals; None where nothing was compared.
        artefact: The folder of the chosen student's first run.
        seconds: What each step took, by name; what was there already took none.
    """

    config: ExperimentConfig
    budget: str
    budget_bytes: int
    full_bytes: int
    teachers: list[Run]
    codes: list[LearnedCodes]
    students: dict[str, Path]
    scores: dict[str, float]
    chosen: str
    left_out: dict[str, str] = field(default_factory=dict)
    compared: Result | None = None
    artefact: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def student(self) -> Arm:
        """Return the arm of the chosen student. Raises ValueError where nothing was compared."""
        if self.compared is None:
            raise ValueError("no seeds were trained, so there are no arms")
        return self.compared.arms[STUDENT]

    @property
    def experiment(self) -> Path:
        """Return the file of the chosen student."""
        return self.students[self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "budget": self.budget,
            "budget_bytes": self.budget_bytes,
            "full_bytes": self.full_bytes,
            "teachers": [str(run.path) for run in self.teachers],
            "codes": [codes.to_dict() for codes in self.codes],
            "students": {kind: str(path) for kind, path in self.students.items()},
            "validation": self.scores,
            "chosen": self.chosen,
            "left_out": self.left_out,
            "compared": None if self.compared is None else self.compared.to_dict(),
            "artefact": None if self.artefact is None else str(self.artefact),
            "seconds": self.seconds,
        }


def run_distillation(
    config: ExperimentConfig,
    budget: str,
    kinds: Sequence[Kind],
    prepared: Prepared,
    roots: tuple[str | Path, str | Path],
    pool: Executor,
    seeds: int = 5,
    effect: float | None = None,
    dtype: Dtype | None = None,
    rivals: Sequence[ExperimentConfig] = (),
    progress: Progress = no_progress,
) -> DistillationResult:
    """Train students of `config`, of full tables, whose resident bytes are at most `budget`, and compare the best one.

    Only validation rows choose.

    Args:
        config: An experiment of full tables; `compression.students` says how.
        budget: Bytes, such as 64MB, or a share of the full table's, such as 10%.
        kinds: Of students, among which validation chooses.
        prepared: The rows of the experiment.
        roots: The folders of runs and of prepared data.
        pool: Trains the runs: `training_pool`'s, or `ray_pool`'s.
        seeds: Of the final comparison; 0 stops before it.
        effect: As of `run_comparison`.
        dtype: Of the artefact's tables; unless given that which they are trained in.
        rivals: Further arms of the comparison, which get the same trials and epochs.
        progress: Is told how it goes.

    Raises:
        ConfigError: The tables are not `full`, the teacher of coded tables is predictions without runs, the budget is below
            the codes of the ids, or no id occurs often enough.
        ValueError: As `teacher_runs`, `with_teacher` and `run_comparison` do.
    """
    runs, prepared_root = map(Path, roots)
    _require_possible(config, kinds, prepared, seeds)
    result, choices, teacher = _chosen(config, budget, kinds, prepared, (runs, prepared_root), pool, progress)
    if not seeds:
        return result
    base = with_means(config)
    taught = base.replace(
        {"name": f"{config.name}-taught", "training.teacher": teacher.model_dump(mode="json")}
    )
    arms = [base, taught, choices[result.chosen].config, *(_with_means_of(base, rival) for rival in rivals)]
    with _timed("trials and seeds of all arms", result.seconds):
        compared = run_comparison(
            arms, seeds, runs, prepared_root, None, progress, effect=effect, baseline=base.name, pool=pool
        )
    run = compared.arms[STUDENT].runs[0]
    dtype = dtype or (
        "fp32" if run.config.tables.precision == "fp32" else "fp16"
    )  # the nearest to bf16 of an artefact
    out = result.experiment.parent / f"artefact-{dtype}-{run.path.parent.name.rpartition('-')[2]}"
    with _timed("export", result.seconds):
        export(run, out, dtype)
    return replace(result, compared=compared, artefact=out)


def _require_possible(
    config: ExperimentConfig, kinds: Sequence[Kind], prepared: Prepared, seeds: int
) -> None:
    """Raise ConfigError or ValueError, as `run_distillation` says, for what would fail after hours."""
    require_full_tables(config)
    if set(kinds) != {"unified"} and teacher_of_students(config).predictions is not None:
        raise ConfigError(
            f"{config.name}: codes are learned from the rows of teachers, and training.teacher.predictions has "
            "none: name their `experiment`, or take --into unified"
        )
    if seeds:
        test = prepared.manifest.splits["test"]
        check_measured("test", test.rows, test.positives, "a comparison")


def _with_means_of(base: ExperimentConfig, rival: ExperimentConfig) -> ExperimentConfig:
    means = {"tuning.trials": base.tuning.trials, "training.epochs": base.training.epochs}
    return rival.replace(means, where=rival.name)


def _chosen(
    config: ExperimentConfig,
    budget: str,
    kinds: Sequence[Kind],
    prepared: Prepared,
    roots: tuple[Path, Path],
    pool: Executor,
    progress: Progress,
) -> tuple[DistillationResult, dict[str, Chosen], TeacherConfig]:
    """Return what validation rows choose, before it is compared, the choice of each kind, and the teacher."""
    runs, prepared_root = roots
    seconds: dict[str, float] = {}
    full_bytes = plan_of(config, prepared.features()).full_bytes
    limit = budget_bytes(check_budget(budget), full_bytes)
    base = with_means(config)
    with _timed("trials of the full table", seconds):
        best_full, prepared = _best_full(base, prepared, roots, pool, progress)
    with _timed("teachers", seconds):
        teachers, rows, teacher = _teach(
            best_full, teacher_of_students(config), prepared, runs, pool, progress
        )
    with _timed("codes", seconds):
        known = known_ids(config, limit, teachers, rows, roots, progress) if teachers else None
        students = students_of(base, budget, kinds, known, teacher)
    with _timed("trials of students", seconds):
        chosen = choose(list(students.configs.values()), runs, prepared_root, pool, progress)
    choices: dict[str, Chosen] = dict(zip(students.configs, chosen, strict=True))
    folder = runs / _folder_name(config, teachers) / budget.replace(" ", "").replace("%", "pct")
    result = DistillationResult(
        config=config,
        budget=budget,
        budget_bytes=limit,
        full_bytes=full_bytes,
        teachers=teachers,
        codes=students.codes,
        left_out=students.left_out,
        students={kind: _write_student(choice, folder / f"{kind}.yaml") for kind, choice in choices.items()},
        scores={kind: choice.score for kind, choice in choices.items()},
        chosen=max(choices, key=lambda kind: choices[kind].score),
        seconds=seconds,
    )
    return result, choices, teacher


def _best_full(
    base: ExperimentConfig,
    prepared: Prepared,
    roots: tuple[Path, Path],
    pool: Executor,
    progress: Progress,
) -> tuple[ExperimentConfig, Prepared]:
    """Return the full table with the settings that do best on validation, where several are tried, and its rows."""
    if base.tuning.trials == 1:
        return base, prepared
    (choice,) = choose([base], *roots, pool, progress)
    return choice.candidate.config, Prepared.open(choice.candidate.prepared)


def _teach(
    config: ExperimentConfig,
    named: TeacherConfig,
    prepared: Prepared,
    runs: Path,
    pool: Executor,
    progress: Progress,
) -> tuple[list[Run], Prepared, TeacherConfig]:
    """Return the teachers' runs, their rows, and what they predict as the teacher of students.

    Teachers that `named` names no experiment of are runs of `config`. Predictions that it names instead have no runs, and
    their rows are the student's.
    """
    student = config.replace({"training.teacher": named.model_dump(mode="json", exclude_unset=True)})
    watch = Watch(progress=progress)
    teachers: list[Run] = []
    rows = prepared
    if named.predictions is None:
        teachers, rows = teacher_runs(student, prepared, trained_in(pool, runs), watch)
    taught = with_teacher(student, prepared, runs, watch).training.teacher
    assert taught is not None
    return teachers, rows, taught


def _write_student(choice: Chosen, file: Path) -> Path:
    """Write a student with its chosen settings as an experiment that `recsys train` takes."""
    raw = choice.candidate.config.model_dump(mode="json", exclude_unset=True)
    raw.pop("tuning", None)
    raw["training"].pop("seed", None)  # of trials
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=110), file)
    return file


def _folder_name(config: ExperimentConfig, teachers: Sequence[Run]) -> str:
    contents = [
        config.compression.students.model_dump(mode="json"),
        [run.checkpoint_digest for run in teachers],
    ]
    if not teachers:
        contents.append(teacher_of_students(config).file_digest())
    return f"{config.name}-students-{text_digest(json.dumps(contents))}"


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - began
