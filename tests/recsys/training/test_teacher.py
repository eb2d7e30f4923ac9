"""A teacher's logits change what the loss sees of a training row, and nothing else."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.special import expit, logit

from recsys.comparison.experiments import run_comparison
from recsys.config import ConfigError, ExperimentConfig, load_experiment, parse_experiment
from recsys.evaluation.metrics import evaluate, recalibrate
from recsys.reports.experiments import write_report
from recsys.training import teacher as teachers
from recsys.training.distributed import process_group
from recsys.training.labels import read_logits, soft_labelled
from recsys.training.loop import Watch, restored
from recsys.training.prediction import predict, predict_logits
from recsys.training.run import Run, run_folder
from recsys.training.store import names_in
from recsys.training.teacher import default_teacher, rows_digest
from recsys.training.train import train, with_teacher
from recsys.tuning.trials import candidates, run_trial, teaching
from recsys_cython_ext.files import seal_of
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]
QUICK = {"training.epochs": 1, "training.evaluations_per_epoch": 1, "training.batch_size": 512}
TOLERANCE = 1e-5  # of probabilities: teachers and students of two ranks each round otherwise


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def rows(prepared: Prepared) -> Rows:
    return Rows.load(prepared, "train")


@pytest.fixture(scope="module")
def logits(rows: Rows) -> np.ndarray:
    return np.random.default_rng(0).normal(-1, 2, len(rows))


@pytest.fixture(scope="module")
def file(rows: Rows, logits: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's predictions, not in the order of the rows, and with some of other rows."""
    return write(tmp_path_factory.mktemp("teacher") / "logits.parquet", rows.row_id, logits)


def write(path: Path, row_ids: np.ndarray, values: np.ndarray) -> Path:
    order = np.random.default_rng(1).permutation(len(row_ids))
    row_id, value = [*row_ids[order].tolist(), 10**9], [*values[order].tolist(), 3.0]
    table = pa.table({"logit": value, "row_id": row_id})
    pyarrow.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def taught_by(path: Path, **settings: Any) -> dict[str, Any]:
    return {**QUICK, "training.teacher": {"predictions": str(path), **settings}}


def same_weights(a: Run, b: Run) -> bool:
    saved = [Checkpoint(run.path / "checkpoint") for run in (a, b)]
    return saved[0].names == saved[1].names and all(
        saved[0].read(name).equal(saved[1].read(name)) for name in saved[0].names
    )


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_soft_labels_are_those_of_an_oracle(
    configure: Configure, rows: Rows, logits: np.ndarray, tmp_path: Path, ending: str
) -> None:
    path = write(tmp_path / f"logits.{ending}", rows.row_id, logits)
    config = configure(taught_by(path, weight=0.3) | {"training.negative_rate": 0.25})
    soft = soft_labelled(rows, config)
    answers = dict(zip(rows.row_id.tolist(), logits.tolist(), strict=True))
    for row_id, label, value in zip(rows.row_id, rows.label, soft.loss_label, strict=True):
        q = 1 / (1 + np.exp(-answers[int(row_id)]))
        of_sample = q / (q + 0.25 * (1 - q))  # of those that a training at this rate sees
        assert value == pytest.approx(0.7 * label + 0.3 * of_sample, abs=1e-6)
    assert np.array_equal(soft.label, rows.label)
    index = np.array([5, -1, 0])
    assert soft.batch(index).label.tolist() == [soft.loss_label[5], 0, soft.loss_label[0]]
    assert np.array_equal(soft.keep_negatives(0.25, 7), rows.keep_negatives(0.25, 7))


def test_a_run_at_a_rate_comes_back_to_the_teachers_probability(
    configure: Configure, prepared: Prepared, rows: Rows, tmp_path: Path
) -> None:
    path = write(tmp_path / "constant.parquet", rows.row_id, np.full(len(rows), logit(0.1)))
    settings = {"training.negative_rate": 0.2, "training.dense_lr": 0.02, "training.epochs": 4}
    run = train(configure(taught_by(path) | settings), prepared, tmp_path)
    assert abs(np.mean(run.predictions()["prediction"]) - 0.1) < 0.01, "the log's own rate is 0.3"


def test_logits_of_a_run_are_recalibrated_by_its_own_rate(
    configure: Configure, prepared: Prepared, rows: Rows, tmp_path: Path
) -> None:
    run = train(configure(QUICK | {"training.negative_rate": 0.5}), prepared, tmp_path)
    with process_group():
        model = restored(run.config, rows.features, run.checkpoint())
        values, probabilities = predict_logits(model, rows, run.config), predict(model, rows, run.config)
    np.testing.assert_allclose(expit(values), probabilities, rtol=1e-9)
    np.testing.assert_allclose(recalibrate(expit(values - np.log(0.5)), 0.5), probabilities, rtol=1e-9)


def test_a_weight_of_nothing_is_no_teacher(
    configure: Configure, prepared: Prepared, file: Path, tmp_path: Path
) -> None:
    plain = train(configure(QUICK), prepared, tmp_path)
    run = train(configure(taught_by(file, weight=0.0)), prepared, tmp_path)
    assert run.path != plain.path
    assert same_weights(run, plain)
    assert run.metrics["history"] == plain.metrics["history"]


def test_a_teacher_that_is_sure_of_the_labels_is_plain_training(
    configure: Configure, prepared: Prepared, rows: Rows, tmp_path: Path
) -> None:
    path = write(tmp_path / "sure.parquet", rows.row_id, np.where(rows.label > 0, 40.0, -40.0))
    plain, run = (train(configure(s), prepared, tmp_path) for s in (QUICK, taught_by(path)))
    np.testing.assert_allclose(
        run.predictions()["prediction"], plain.predictions()["prediction"], atol=TOLERANCE
    )


def test_metrics_are_of_true_labels(
    configure: Configure, prepared: Prepared, file: Path, tmp_path: Path
) -> None:
    run = train(configure(taught_by(file)), prepared, tmp_path)
    test, validation = (Rows.load(prepared, split) for split in ("test", "validation"))
    predictions = run.predictions()
    assert predictions["label"].to_pylist() == test.label.tolist()
    assert run.metrics["test"] == evaluate(test.label, predictions["prediction"], groups=test.user)
    assert run.metrics["validation"]["positives"] == np.count_nonzero(validation.label)


def test_an_interrupted_student_ends_as_one_that_was_not(
    configure: Configure, prepared: Prepared, file: Path, tmp_path: Path
) -> None:
    config = configure(taught_by(file, weight=0.5) | {"job.checkpoint.every_steps": 2})
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, prepared, tmp_path / "killed", Watch(step=step))
    assert names_in(next((tmp_path / "killed").glob("small-*/seed-0/checkpoints"))), "it is gone on with"
    runs = [train(config, prepared, tmp_path / name) for name in ("killed", "whole")]
    assert same_weights(*runs)
    assert runs[0].metrics["history"] == runs[1].metrics["history"]
    assert runs[0].path.parent.name == runs[1].path.parent.name


def test_a_hashed_student_learns_from_teachers_with_vocabularies(
    configure: Configure, tmp_path: Path
) -> None:
    student = configure(
        QUICK | {"features.encoding": "hash", "training.teacher": {"runs": 2}},
        name="student",
        tables={"scheme": "unified", "embedding_dim": 8, "chunk_dim": 4, "budget": "50%"},
    )
    prepared = prepare(student.data, student.features, tmp_path / "prepared")
    stages: list[str] = []
    watch = Watch(progress=lambda stage, *_: stages.append(stage))
    run = train(student, prepared, tmp_path / "runs", watch)
    assert {"teacher 1 of 2: epoch 1", "teacher 2 of 2: epoch 1", "teachers' logits"} <= set(stages)

    folders = sorted((tmp_path / "runs").glob("teacher-*/seed-*"))
    assert [folder.name for folder in folders] == ["seed-2000", "seed-2001"]
    trained = [Run.open(folder) for folder in folders]
    config = trained[0].config
    assert (config.tables.scheme, config.tables.embedding_dim, config.tables.budget) == ("full", 16, None)
    assert all(feature.num_codes is not None for feature in trained[0].features().categorical)

    named = run.config.training.teacher
    assert named is not None
    assert named.predictions is not None
    table = pq.read_table(named.predictions)
    assert table["row_id"].equals(trained[0].prepared().table("train")["row_id"])
    rows = [r.rows("train") for r in trained]
    with process_group():
        models = [
            restored(r.config, part.features, r.checkpoint()) for r, part in zip(trained, rows, strict=True)
        ]
        means = np.mean([predict_logits(m, p, config) for m, p in zip(models, rows, strict=True)], axis=0)
    np.testing.assert_allclose(table["logit"], means, rtol=1e-9)

    written = named.predictions.stat().st_mtime_ns
    assert with_teacher(student, prepared, tmp_path / "runs") == run.config
    assert named.predictions.stat().st_mtime_ns == written
    other = train(student.replace({"training.seed": 1}), prepared, tmp_path / "runs")
    assert other.path.parent == run.path.parent
    assert len(list((tmp_path / "runs" / "teachers").glob("*.parquet"))) == 1


def test_trials_and_arms_share_the_teachers_of_their_file(configure: Configure, tmp_path: Path) -> None:
    config = configure(
        QUICK | {"training.teacher": {"runs": 1}},
        tuning={"trials": 3, "space": {"training.teacher.weight": [0.5, 0.25], "training.table_lr": [0.1]}},
    )

    def prepared_for(changed: ExperimentConfig) -> Prepared:
        return prepare(changed.data, changed.features, tmp_path / "prepared")

    drawn = candidates(config, prepared_for, teaching(config, tmp_path / "runs", lambda *_: None))
    assert len(drawn) == 3
    named = [candidate.config.training.teacher for candidate in drawn]
    assert len({teacher.predictions for teacher in named if teacher}) == 1
    assert sorted(teacher.weight for teacher in named if teacher) == [0.25, 0.5, 1.0]
    assert len(list((tmp_path / "runs").glob("*/seed-2000"))) == 1
    trial = run_trial(drawn[1], tmp_path / "runs")
    assert trial.end == "finished"
    plain = configure(QUICK | {"training.table_lr": 0.1, "training.seed": config.tuning.training_seed})
    assert trial.history[-1]["train_loss"] != train_loss(plain, drawn[1].prepared, tmp_path)


def train_loss(config: ExperimentConfig, prepared: Path, runs: Path) -> float:
    return float(train(config, Prepared.open(prepared), runs).metrics["history"][-1]["train_loss"])


def test_other_rows_are_refused(configure: Configure, prepared: Prepared, tmp_path: Path) -> None:
    config = configure(QUICK | {"training.teacher": {"runs": 1}})
    resolved = with_teacher(config, prepared, tmp_path / "runs")
    split = config.data.split.model_copy(update={"seed": 5})
    data = config.data.model_copy(update={"split": split})
    others = prepare(data, config.features, tmp_path)
    assert rows_digest(others) != rows_digest(prepared)
    teacher = resolved.training.teacher
    assert teacher is not None
    elsewhere = configure(taught_by(teacher.predictions))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"training rows of {prepared.path}, .* not those of {others.path}"):
        train(elsewhere, others, tmp_path / "runs")

    raw = config.model_dump(mode="json", exclude_unset=True) | {"name": "full"}
    raw["training"] = QUICK_TRAINING
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(raw))
    student = configure(QUICK | {"training.teacher": {"experiment": str(tmp_path / "full.yaml")}}, data=data)
    with pytest.raises(ConfigError, match=r"teacher, .*log-\w+, are not those of .*log-\w+: a teacher has"):
        train(student, others, tmp_path / "runs")


QUICK_TRAINING = {key.removeprefix("training."): value for key, value in QUICK.items()}


def test_a_row_without_a_value_is_named(configure: Configure, rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "logits.csv"

    def refused(text: str) -> str:
        path.write_text(text)
        with pytest.raises(ValueError, match=str(path)) as caught:
            soft_labelled(rows, configure(taught_by(path)))
        return str(caught.value)

    lines = "".join(f"{row_id},0.5\n" for row_id in rows.row_id[1:])
    assert f"has no logit of row_id {rows.row_id[0]}" in refused("row_id,logit\n" + lines)
    assert "row 0 (line 2): row_id 7 has no logit that is a finite number" in refused(
        "row_id,logit\n7,\n8,1\n"
    )
    assert "row 1 (line 3): row_id 8 has no logit" in refused("row_id,logit\n7,1\n8,inf\n")
    assert "row_id 7 stands there twice, with the logits 1 and 2" in refused("row_id,logit\n7,1\n7,2\n")
    assert "row 1 (line 3): row_id is no whole number" in refused("row_id,logit\n7,1\na,2\n")
    assert "has no column 'logit', but row_id, prediction" in refused("row_id,prediction\n7,1\n")
    with pytest.raises(ValueError, match="no such file"):
        read_logits(tmp_path / "nowhere.csv", rows.row_id)


def test_flipped_bits_are_refused(configure: Configure, prepared: Prepared, tmp_path: Path) -> None:
    config = configure(QUICK | {"training.teacher": {"runs": 1}})
    resolved = with_teacher(config, prepared, tmp_path)
    teacher = resolved.training.teacher
    assert teacher is not None
    path = teacher.predictions
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for damaged in (config, resolved, configure(taught_by(path))):
        with pytest.raises(ConfigError, match=f"{path}: damaged or changed"):
            train(damaged, prepared, tmp_path)
    seal_of(path).unlink()  # as of one that was not finished
    with pytest.raises(ConfigError, match=f"{path}: damaged or changed since this training was planned"):
        train(resolved, prepared, tmp_path)
    assert with_teacher(config, prepared, tmp_path) == resolved, "which is written again"
    train(resolved, prepared, tmp_path)


def test_teachers_that_disagree_are_refused(run: Run) -> None:
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_array_equal(teachers._mean([values, 3 * values], [run, run]), 2 * values)
    with pytest.raises(ConfigError, match="these teachers disagree"):
        teachers._mean([values, -values], [run, run])


def test_the_default_teacher_is_the_same_for_all_tables(configure: Configure) -> None:
    full = configure({"training.seed": 3})
    hashed = configure(
        {
            "features.encoding": "hash",
            "training.teacher": {"weight": 0.5},
            "job.sharding.tables": {"x": "row_wise"},
        },
        name="hashed",
        tables={"scheme": "hash", "embedding_dim": 4, "budget": "10%"},
    )
    assert default_teacher(hashed).digest("p") == default_teacher(full).digest("p")
    assert default_teacher(hashed).training.teacher is None
    counted = configure({"features.min_count": 3})
    assert [f.min_count for f in default_teacher(counted).features if f.kind == "categorical"] == [3, 3]


def test_settings_that_cannot_be(configure: Configure, prepared: Prepared, log: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"predictions": "a.csv", "runs": 3}, "neither `experiment` nor `runs`"),
        ({"predictions": "a.csv", "weight": 2}, r"training\.teacher\.weight: Input should be less"),
        ({"runs": 0}, r"training\.teacher\.runs: Input should be greater"),
        ({"experimant": "a.yaml"}, "unknown key .* did you mean 'experiment'"),
        ({"xxh64": "0"}, "none is named"),
    ):
        with pytest.raises(ConfigError, match=message):
            configure({"training.teacher": settings})
    plain = configure()
    assert "teacher" not in plain.model_dump()["training"], "so that digests stay"
    with pytest.raises(ConfigError, match="not known before they are trained"):
        configure({"training.teacher": {}}).digest(prepared.path)

    raw = plain.model_dump(mode="json", exclude_unset=True)
    raw["training"] |= {"teacher": {"experiment": "full.yaml"}}
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"training\.teacher\.experiment: \S*/full\.yaml is no file"):
        load_experiment(tmp_path / "student.yaml")
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(raw))
    student = load_experiment(tmp_path / "student.yaml")
    with pytest.raises(
        ConfigError, match=r"full\.yaml: is the teacher of small, and has a training\.teacher"
    ):
        train(student, prepared, tmp_path)


def test_a_digest_is_of_what_the_teacher_says(configure: Configure, prepared: Prepared, file: Path) -> None:
    one = configure(taught_by(file))
    copy = file.with_name("copy.parquet")
    copy.write_bytes(file.read_bytes())
    other = configure(taught_by(copy))
    assert one.digest("p") == other.digest("p") != configure(QUICK).digest("p")
    assert one.digest("p") != configure(taught_by(file, weight=0.5)).digest("p")
    pq.write_table(pq.read_table(file).slice(1), copy)
    assert one.digest("p") != other.digest("p")
    copy.unlink()
    with pytest.raises(ConfigError, match=r"copy\.parquet: cannot be read"):
        other.digest("p")


def work(rank: int, folder: Path, name: str) -> None:
    """Train a teacher and its student on this rank."""
    settings = yaml.safe_load((folder / "setting.yaml").read_text())
    config = parse_experiment(settings["config"], "setting.yaml")
    prepared = Prepared.open(settings["prepared"])
    run = train(config, prepared, folder / name)
    assert run.path == run_folder(run.config, prepared, folder / name)


def ranks(folder: Path, in_ranks: Any) -> None:
    for count, name in ((1, "one"), (2, "two")):
        in_ranks(count, work, folder, name)


def test_two_ranks_are_as_one(configure: Configure, tmp_path: Path, run_ranks: Any) -> None:
    config = configure(
        QUICK | {"training.teacher": {"runs": 1, "weight": 0.7}, "job.sharding.default": "row_wise"},
        tables={"scheme": "quotient_remainder", "embedding_dim": 8, "budget": "80%"},
        evaluation={"batch_size": 100},
    )
    prepared = prepare(config.data, config.features, tmp_path / "prepared")
    setting = {"config": config.model_dump(mode="json"), "prepared": str(prepared.path)}
    (tmp_path / "setting.yaml").write_text(yaml.safe_dump(setting))
    run_ranks(__file__, "ranks", tmp_path)
    runs = [Run.open(next((tmp_path / name).glob("small-*/seed-0"))) for name in ("one", "two")]
    written = [
        pq.read_table(next((tmp_path / name / "teachers").glob("*.parquet"))) for name in ("one", "two")
    ]
    np.testing.assert_allclose(written[0]["logit"], written[1]["logit"], atol=1e-4)
    np.testing.assert_allclose(
        runs[0].predictions()["prediction"], runs[1].predictions()["prediction"], atol=TOLERANCE
    )


@pytest.mark.slow
def test_workers_on_ray_and_arms_of_a_comparison_learn_from_it(configure: Configure, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from recsys.training.ray_job import Workers, session, train_on_ray

    plain = configure(QUICK, name="full")
    student = configure(QUICK | {"training.teacher": {"runs": 1}})
    prepared = prepare(student.data, student.features, tmp_path / "prepared")
    workers = Workers(2)
    with session(workers):
        run = train_on_ray(student, prepared, tmp_path / "ray", workers)
    alone = train(student, prepared, tmp_path / "alone")
    np.testing.assert_allclose(
        run.predictions()["prediction"], alone.predictions()["prediction"], atol=TOLERANCE
    )
    result = run_comparison([plain, student], 1, tmp_path / "alone", tmp_path / "prepared", jobs=1)
    assert result.arms[1].runs[0].path == alone.path
    write_report(result, tmp_path / "report.html")
    assert "alone/teachers/" in (tmp_path / "report.html").read_text()
