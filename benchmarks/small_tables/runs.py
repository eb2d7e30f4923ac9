"""Arms are tried on the first split and trained on all; every trial and run is kept, so the same command goes on.

<work>/<set>/arms/<arm>@<budget>.json    settings, trials, bytes and runs of an arm, written when it is whole
<work>/<set>/runs, prepared              of all splits
"""

import json
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from arms import RANDOM, REFERENCES, TWO_CHUNKS
from out_of_fold import write_out_of_fold

from recsys.comparison.candidates import candidates_of
from recsys.comparison.pool import collect, train_in_worker, trained_in
from recsys.compression.clustered import like_teacher, write_start
from recsys.compression.codes import TrainedIds, random_codes, trained_ids
from recsys.compression.search import run_compression
from recsys.compression.students import LearnedCodes, codes_for, hashed
from recsys.compression.supernet import evaluator
from recsys.config import FIT, MIN_COUNT, ExperimentConfig, TeacherConfig
from recsys.planning import plan_of
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.teacher import teacher_runs
from recsys.training.train import with_teacher
from recsys.tuning.trials import Draws, best, run_trial, teaching
from recsys_cython_ext.files import file_digest, write_json, write_text
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.codes import Codes
from recsys_tables.planning.plan import BudgetError
from recsys_tables.schemes.declared import budget_bytes

NUM_TEACHERS = 3
TEACHERS, ONE_TEACHER, SMALL_TEACHERS = "teacher", "one-teacher", "small-teachers"
OUT_OF_FOLD, SMOOTHING = "out-of-fold", "smoothing"


@dataclass(frozen=True)
class Split:
    """One way of dividing a log: its experiment of full tables, teachers of its own, and what they know.

    base: with the trials, the space and the epochs that every arm gets. pool: trains teachers.
    """

    base: ExperimentConfig
    folder: Path
    pool: Executor

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @cached_property
    def prepared(self) -> Prepared:
        return self.prepare(self.base)

    def prepare(self, config: ExperimentConfig) -> Prepared:
        return prepare(config.data, config.features, self.folder / "prepared")

    @cached_property
    def teachers(self) -> tuple[list[Run], Prepared]:
        return teacher_runs(
            self._student, self.prepare(self._student), trained_in(self.pool, self.runs), Watch()
        )

    def teacher(self, by: str, budget: str | None) -> TeacherConfig:
        """Return teachers: three full tables, one, three that did not see the row, three small ones, or the mean."""
        if by == SMOOTHING:
            return self._smoothing
        if by == OUT_OF_FOLD:
            return self._out_of_fold
        if by == SMALL_TEACHERS:
            told = json.loads((self.folder / "arms" / f"unified@{budget}.json").read_text())
            number = [split["seed"] for split in told["splits"]].index(self.base.data.split.seed)
            teacher: dict[str, Any] = {
                "experiment": self._experiment(told["runs"][number][0]),
                "runs": NUM_TEACHERS,
            }
        else:
            teacher = {"runs": 1 if by == ONE_TEACHER else NUM_TEACHERS}
        student = self._student.replace({"training.teacher": teacher})
        prepared = self.prepare(student)
        teacher_runs(student, prepared, trained_in(self.pool, self.runs), Watch())
        taught = with_teacher(student, prepared, self.runs).training.teacher
        assert taught is not None
        return taught

    @cached_property
    def _smoothing(self) -> TeacherConfig:
        """Return a teacher who gives every row the rate of clicks, at a weight of 0.1: label smoothing."""
        rows = Rows.load(self.prepared, "train")
        rate = float(rows.label.mean())
        file = self.folder / f"smoothing-{self.base.data.split.seed}.parquet"
        logit = np.full(len(rows), np.log(rate / (1 - rate)))
        pq.write_table(pa.table({"row_id": rows.row_id, "logit": logit}), file)
        return TeacherConfig(predictions=file, xxh64=file_digest(file), weight=0.1)

    @cached_property
    def _out_of_fold(self) -> TeacherConfig:
        """Return teachers of which each row has those that did not train on it."""
        file = self.folder / f"out-of-fold-{self.base.data.split.seed}.parquet"
        if not file.exists():
            runs, rows = self.teachers
            write_out_of_fold(runs[0].config, rows, NUM_TEACHERS, self.pool, self.folder, file)
        return TeacherConfig(predictions=file, xxh64=file_digest(file))

    def _experiment(self, run: str) -> str:
        """Write the experiment of a run, without its seed, and return its file."""
        raw = Run.open(run).config.model_dump(mode="json", exclude_unset=True)
        raw["training"].pop("seed", None)
        file = self.folder / f"teacher-{Path(run).parent.name}.yaml"
        write_text(yaml.safe_dump(raw), file)
        return str(file)

    @property
    def _student(self) -> ExperimentConfig:
        """Return an experiment whose default teachers are the full tables that did best on validation, as they were set."""
        file = max((self.folder / "arms" / f"{name}.json" for name in REFERENCES), key=_validation)
        settings = json.loads(file.read_text())["settings"]
        return self.base.replace({**settings, "training.teacher": {"runs": NUM_TEACHERS}})

    @cached_property
    def trained_ids(self) -> TrainedIds:
        runs, rows = self.teachers
        return trained_ids(runs, Rows.load(rows, "train"), self.student_features)

    def ids(self, run: Run, feature: str) -> np.ndarray:
        """Return the codes of a feature that the training rows of a teacher have."""
        return self._teachers_rows(run.prepared_path).ids_of(feature)

    def _teachers_rows(self, prepared: Path) -> Rows:
        if prepared not in self._loaded:
            self._loaded[prepared] = Rows.load(prepared, "train")
        return self._loaded[prepared]

    @cached_property
    def _loaded(self) -> dict[Path, Rows]:
        return {}

    @cached_property
    def student_features(self) -> Any:
        student = self.base.replace({"features": hashed(self.base)})
        return self.prepare(student).features()

    def codes(self, budget: str, precision: str, chunks: int = 1) -> list[LearnedCodes]:
        """Return the codes that fit a budget, in one order for all splits."""
        settings = {"compression.students.precision": precision, "compression.students.chunks": chunks}
        config = self.base.replace(settings)
        limit = budget_bytes(budget, plan_of(self.base, self.prepared.features()).full_bytes)
        runs, _ = self.teachers
        learned = codes_for(
            config, limit, self.trained_ids, runs, self.student_features, self.runs, lambda *_: None
        )
        return sorted(learned, key=lambda codes: (-codes.num_rows, codes.min_count))

    def evolution(self, budget: str, precision: str) -> Path:
        """Return the experiment of what evolution finds within a budget, over the rows and widths of a learner."""
        settings = {"compression.precision": precision, "compression.form": "fingerprint"}
        config = self.base.replace(settings)
        roots = self.runs, self.folder / "prepared"
        return run_compression(config, budget, self.prepared, roots, evaluator, seeds=0).experiment

    def code_folders(self, name: str, budget: str, precision: str) -> list[str]:
        """Return the folders of codes that an arm tries; random ones have as many rows and ids as the learned ones."""
        learned = self.codes(budget, precision, chunks=2 if name == TWO_CHUNKS else 1)
        if name == RANDOM:
            return [str(self._random_like(codes)) for codes in learned]
        return [str(codes.folder) for codes in learned]

    def clustered(self, budget: str, precision: str, students: int) -> tuple[str, list[str]]:
        """Return the folder of codes of clustered tables, and what each student begins with, of a teacher of its own."""
        runs, _ = self.teachers
        config = like_teacher(self.base.replace({"compression.students.precision": precision}), runs[0])
        limit = budget_bytes(budget, plan_of(self.base, self.prepared.features()).full_bytes)
        (learned,) = codes_for(
            config, limit, self.trained_ids, runs, self.student_features, self.runs, lambda *_: None
        )
        starts = [
            write_start(learned, self.trained_ids, runs, number % len(runs)) for number in range(students)
        ]
        return str(learned.folder), [str(start) for start in starts]

    def _random_like(self, learned: LearnedCodes) -> Path:
        folder = learned.folder.with_name(f"random-{learned.folder.name}")
        if not folder.exists():
            like = Codes.open(learned.folder)
            ids = self.trained_ids.seen(learned.min_count)
            random_codes(ids, like.num_embeddings, like.num_chunks).save(folder)
        return folder


def _validation(file: Path) -> float:
    return float(json.loads(file.read_text())["validation"])


def train_arm(
    name: str,
    configs: list[ExperimentConfig],
    splits: list[Split],
    students: int,
    pool: Executor,
    file: Path,
    budget: str | None,
    starts: list[list[str]] | None = None,
) -> dict[str, Any]:
    """Choose an arm's settings on the first split, train its students on all, and write what came of it.

    configs: the arm's experiment on each split, alike but for the split and the folders of codes. budget: what its tables
    are made for, which those that evolution has found do not declare. starts: what each student
    of each split begins with, if not with random values.
    """
    first = splits[0]
    options = candidates_of(configs[0], first.folder / "prepared", first.runs, lambda *_: None).candidates
    trials = collect(
        "trials", [pool.submit(run_trial, option, first.runs) for option in options], lambda *_: None
    )
    chosen = best(configs[0], options, trials)
    scores = [trial.score(configs[0]) for trial in trials]
    futures = []
    for number, (split, config) in enumerate(zip(splits, configs, strict=True)):
        candidate = _on_split(chosen.settings, config, configs[0], split)
        for seed in range(students):
            start = {} if starts is None else {"training.start": starts[number][seed]}
            seeded = candidate.config.replace({"training.seed": seed} | start)
            futures.append(pool.submit(train_in_worker, seeded, candidate.prepared, split.runs))
    paths = [str(path) for path in collect("runs", futures, lambda *_: None)]
    runs = [Run.open(path) for path in paths]
    told = {
        "arm": name,
        "budget": budget,
        "settings": chosen.settings,
        "validation": max(scores),
        "trials": len(trials),
        "bytes": [run.metrics["bytes"] for run in runs[::students]],
        "seconds": sum(run.metrics["training_seconds"] for run in runs) / len(runs),
        "auc": [run.metrics["test"]["auc"] for run in runs],
        "splits": [{"seed": config.data.split.seed} for config in configs],
        "runs": [paths[start : start + students] for start in range(0, len(paths), students)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(told, file)
    return told


def _on_split(
    settings: dict[str, Any], config: ExperimentConfig, first: ExperimentConfig, split: Split
) -> Any:
    """Return settings that were chosen on the first split as a candidate of another.

    Codes are those of the other split in the same place of the list. A minimum count whose tables do not fit there is the
    smallest that does.
    """
    codes = "tables.codes"
    if codes in settings:
        place = list(first.tuning.space[codes]).index(settings[codes])  # type: ignore[arg-type]
        settings = settings | {codes: config.tuning.space[codes][place]}  # type: ignore[index]
    elif config.tables.scheme == "coded":
        settings = settings | {codes: config.tuning.space[codes][0]}  # type: ignore[index]
    draws = Draws(config, split.prepare, teaching(config, split.runs, lambda *_: None))
    try:
        return draws.add(settings)[0]
    except BudgetError:
        return draws.add(settings | {MIN_COUNT: FIT})[0]
