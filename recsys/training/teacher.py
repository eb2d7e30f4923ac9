"""The teachers of a training are runs whose mean logit it learns from, kept in a file beside the runs.

<runs>/teacher-<digest>/seed-<2000 and on>/     the runs of the default teacher, as any others
<runs>/teachers/<digest>.parquet                row_id and logit of every training row, with its checksum beside it

Teachers and students have the same training rows, and may have other features of them: a teacher has a vocabulary
where a student hashes.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import ConfigError, ExperimentConfig, TeacherConfig, load_experiment, parse_experiment
from recsys.training.distributed import kept_by_rank_0, on_rank_0, process_group
from recsys.training.loop import Watch, restored
from recsys.training.prediction import predict_logits
from recsys.training.run import Run
from recsys_cython_ext.files import digest, is_sealed, new_path, seal, seal_of, text_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, parse_json
from recsys_cython_ext.progress import prefixed
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

VERSION = 1  # of what the file holds
NAME = "teacher"  # of the default teacher, so that students of all names share its runs
METADATA = b"recsys_teacher"  # of the file: a `Predicted`
LOCK_SECONDS = 600.0  # waited for another job that writes the file

TrainRun = Callable[[ExperimentConfig, Prepared, Watch], Run]
TrainRuns = Callable[[Sequence[ExperimentConfig], Prepared, Watch], list[Run]]


class Predicted(Manifest):
    """What a file of teachers' logits says of itself: where its rows were prepared, their digest, and the runs."""

    prepared: str
    rows: str
    runs: list[str]


def taught(
    config: ExperimentConfig,
    prepared: Prepared,
    runs: str | Path,
    train_runs: TrainRuns,
    watch: Watch,
    base: ExperimentConfig | None = None,
) -> ExperimentConfig:
    """Return the experiment with its teachers' predictions, and their checksum, in the place of their experiment.

    Every rank of a process group calls it, or a process alone. What is trained or written already is taken.

    Args:
        config: The student, which is returned as it is where it has no teacher.
        prepared: The student's rows. The teachers' are prepared beside them where their features are others.
        runs: The folder of the teachers' runs, and of their predictions.
        train_runs: Trains the runs of teachers, or returns those that are finished, in their order.
        watch: Is told how the teachers train.
        base: The experiment that the default teacher is made of, where the student is a variant of it.

    Raises:
        ConfigError: The teachers have a teacher, or other training rows; they disagree; or their predictions are damaged.
        ValueError: As `prepare` and `train_runs` do.
    """
    teacher = config.training.teacher
    if teacher is None:
        return config
    file = teacher.predictions
    if file is None:
        trained, rows = teacher_runs(config, prepared, train_runs, watch, base)
        with process_group():
            file = _predicted(trained, rows, Path(runs).resolve() / "teachers", watch)
    else:
        with process_group():
            on_rank_0(lambda: _require_rows_of(teacher, prepared))
    named = {"predictions": str(file), "weight": teacher.weight}
    with process_group():
        checksum = teacher.xxh64 or on_rank_0(TeacherConfig(predictions=file).file_digest)
    return config.replace({"training.teacher": named | {"xxh64": checksum}}, where=config.name)


def one_by_one(train_run: TrainRun) -> TrainRuns:
    """Return what trains teachers one after the other, each by `train_run`."""

    def train_runs(teachers: Sequence[ExperimentConfig], prepared: Prepared, watch: Watch) -> list[Run]:
        trained = []
        for number, teacher in enumerate(teachers, start=1):
            progress = prefixed(f"teacher {number} of {len(teachers)}", watch.progress)
            trained.append(train_run(teacher, prepared, Watch(progress=progress, warn=watch.warn)))
        return trained

    return train_runs


def default_teacher(config: ExperimentConfig) -> ExperimentConfig:
    """Return the teacher of an experiment that names none: as it is, but with full tables over vocabularies.

    Tables are as wide as the full one that a budget is a share of (`tables.budget_embedding_dim`), and without a budget.
    Every feature of ids has an exact vocabulary with its declared minimum count, all ids unless it declares one.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    for feature in raw["features"]:
        for key in ("encoding", "form", "unknown", "keep"):
            feature.pop(key, None)
    width = config.tables.budget_embedding_dim
    tables = {"scheme": "full", "embedding_dim": width, "budget_embedding_dim": width}
    training = {k: v for k, v in raw.get("training", {}).items() if k not in ("start", "teacher", "seed")}
    raw |= {"name": NAME, "tables": tables | {"init_bound": config.tables.init_bound}, "training": training}
    for section in ("tuning", "compression"):
        raw.pop(section, None)
    raw.get("job", {}).get("sharding", {}).pop("tables", None)  # which are the student's
    return parse_experiment(raw, f"{config.name}: training.teacher")


def rows_digest(prepared: Prepared) -> str:
    """Return a digest of the training rows of a prepared set: the log's files, label and split, and the rows' numbers."""
    numbers = np.sort(prepared.table("train", verify=False)["row_id"].to_numpy())
    manifest = prepared.manifest
    declared = [manifest.data[key] for key in ("source", "label", "split")]
    return text_digest(json.dumps([manifest.files, declared, digest(numbers.tobytes())]))


def teacher_runs(
    config: ExperimentConfig,
    prepared: Prepared,
    train_runs: TrainRuns,
    watch: Watch,
    base: ExperimentConfig | None = None,
) -> tuple[list[Run], Prepared]:
    """Return the runs of an experiment's teachers, and the rows they were trained on; arguments and errors as of `taught`.

    Raises ConfigError too where the experiment has no teacher, or only predictions of some.
    """
    teacher = config.training.teacher
    if teacher is None or teacher.predictions is not None:
        raise ConfigError(
            f"{config.name}: training.teacher names no runs: give an `experiment` of teachers, or a number of `runs`"
        )
    with process_group():
        experiment, path = on_rank_0(
            lambda: _experiment_and_rows(config, teacher, prepared, watch, base or config)
        )
    rows = prepared if path == prepared.path else Prepared.open(path)
    seeded = [experiment.replace({"training.seed": seed}, where=experiment.name) for seed in teacher.seeds]
    return train_runs(seeded, rows, watch), rows


def _experiment_and_rows(
    config: ExperimentConfig,
    teacher: TeacherConfig,
    prepared: Prepared,
    watch: Watch,
    base: ExperimentConfig,
) -> tuple[ExperimentConfig, Path]:
    """Return the teachers' experiment, on the log of the student, and the folder of its prepared rows."""
    if teacher.experiment is None:
        experiment = default_teacher(base)
    else:
        experiment = load_experiment(teacher.experiment, data=config.data.path, on=prepared.path)
    if experiment.training.teacher is not None:
        raise ConfigError(
            f"{teacher.experiment}: is the teacher of {config.name}, and has a training.teacher itself: leave that out, "
            "for teachers learn from labels"
        )
    if (experiment.data, experiment.features) == (config.data, config.features):
        return experiment, prepared.path
    rows = prepare(experiment.data, experiment.features, prepared.path.parent, watch.progress)
    if rows_digest(rows) != rows_digest(prepared):
        raise ConfigError(
            f"{config.name}: the training rows of its teacher, {rows.path}, are not those of {prepared.path}: a teacher "
            "has the same log, label, split and seed of the split, and features that leave the same rows"
        )
    return experiment, rows.path


def _require_rows_of(teacher: TeacherConfig, prepared: Prepared) -> None:
    """Raise ConfigError where predictions that `_predicted` wrote are damaged, or of other training rows."""
    file = teacher.predictions
    assert file is not None
    _require_undamaged(file)
    if file.suffix != ".parquet" or not file.is_file():
        return
    try:
        text = (pq.read_schema(file).metadata or {}).get(METADATA)
        about = None if text is None else parse_json(text, Predicted, file)
    except (DamagedFile, pa.ArrowException) as error:
        raise ConfigError(f"{file}: {error}") from None
    if about is not None and about.rows != rows_digest(prepared):
        raise ConfigError(
            f"{file}: predicts the training rows of {about.prepared}, which are not those of {prepared.path}: the log, its "
            "label or its split is another one"
        )


def _require_undamaged(file: Path) -> None:
    if seal_of(file).exists() and not is_sealed(file):
        raise ConfigError(
            f"{file}: damaged or changed since it was written (its checksum is wrong): delete it, and an experiment whose "
            "training.teacher is that of the runs writes it again"
        )


def _predicted(trained: Sequence[Run], prepared: Prepared, folder: Path, watch: Watch) -> Path:
    """Return the file of the mean logits of runs on the training rows that they have in common."""
    rows_of_all = on_rank_0(lambda: rows_digest(prepared))
    contents = [VERSION, rows_of_all, [run.checkpoint_digest for run in trained]]
    file = folder / f"{text_digest(json.dumps(contents))}.parquet"
    busy = f"{file}: another job is writing what these teachers predict; wait for it, or stop it"
    with kept_by_rank_0(file, LOCK_SECONDS, busy):
        if on_rank_0(lambda: _is_written(file)):
            return file
        on_rank_0(lambda: prepared.verify("train"))
        rows = Rows.load(prepared, "train", verify=False)
        logits = []
        for number, run in enumerate(trained, start=1):
            logits.append(_logits(run, rows))
            watch.progress("teachers' logits", number, len(trained))
        about = Predicted(
            prepared=str(prepared.path.resolve()), rows=rows_of_all, runs=[str(run.path) for run in trained]
        )
        on_rank_0(lambda: _write(file, rows.row_id, _mean(logits, trained), about))
    return file


def _logits(run: Run, rows: Rows) -> np.ndarray:
    model = restored(run.config, rows.features, run.checkpoint())
    return predict_logits(model, rows, run.config)


def _is_written(file: Path) -> bool:
    _require_undamaged(file)
    return is_sealed(file)  # else it was not finished


def _mean(logits: Sequence[np.ndarray], trained: Sequence[Run]) -> np.ndarray:
    """Return the mean logit of each row. Raises ConfigError where teachers contradict each other."""
    for (a, first), (b, second) in itertools.combinations(zip(trained, logits, strict=True), 2):
        if np.cov(first, second)[0, 1] < 0:
            raise ConfigError(
                f"{a.path} and {b.path}: these teachers disagree, for their logits of the training rows are negatively "
                "correlated: at least one has learnt nothing; look at its validation metrics, and lower or raise its "
                "learning rates"
            )
    return np.mean(logits, axis=0)


def _write(file: Path, row_ids: np.ndarray, logits: np.ndarray, about: Predicted) -> None:
    table = pa.table({"row_id": row_ids, "logit": logits})
    with new_path(file) as partial:
        pq.write_table(table.replace_schema_metadata({METADATA: about.model_dump_json()}), partial)
    seal(file)
