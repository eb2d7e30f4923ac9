"""Small tables that learn from teachers: codes of their rows, students, and what a compression says of them."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from recsys import cli
from recsys.comparison.pool import training_pool
from recsys.compression import cost
from recsys.compression.clustered import centroids, like_teacher
from recsys.compression.codes import (
    TrainedIds,
    learned_codes,
    nearest_centroids,
    random_codes,
    row_use,
    trained_ids,
)
from recsys.compression.cost import expected_cost
from recsys.compression.distillation import DistillationResult, run_distillation
from recsys.compression.kinds import KINDS, Known, students_of
from recsys.compression.saliency import importance
from recsys.compression.students import hashed, most_rows
from recsys.compression.supernet import full_model
from recsys.config import ConfigError, ExperimentConfig, TeacherConfig, load_experiment
from recsys.cost import Measured
from recsys.evaluation.metrics import logloss
from recsys.models.click import ClickModel
from recsys.reports.distillation import loss_at_most, summary, write_compression
from recsys.training.distributed import process_group
from recsys.training.feed import click_batch
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.progress import no_progress
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_tables.codes import Codes
from recsys_tables.distributed.checkpoint import CheckpointError
from recsys_tables.serving import artefact

Configure = Callable[..., ExperimentConfig]
STUDENTS = {"teachers": 2, "trials": 1, "epochs": 1, "min_counts": [1, 400]}


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    return configure({"training.epochs": 1}, compression={"students": STUDENTS})


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def result(config: ExperimentConfig, roots: tuple[Path, Path]) -> DistillationResult:
    ready = prepare(config.data, config.features, roots[1])
    with training_pool([config], 1) as pool:
        return run_distillation(config, "60%", KINDS["auto"], ready, roots, pool, seeds=1)


@pytest.fixture(scope="module")
def trained(result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path]) -> TrainedIds:
    student = config.replace({"features": hashed(config)})
    features = prepare(student.data, student.features, roots[1]).features()
    return trained_ids(result.teachers, result.teachers[0].rows("train"), features)


def test_trained_ids_are_those_of_training_as_a_student_reads_them(
    trained: TrainedIds, result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path]
) -> None:
    student = config.replace({"features": hashed(config)})
    rows = Rows.load(prepare(student.data, student.features, roots[1]), "train")
    for name in ("user_id", "item_id", "tags"):
        ids, counts = np.unique(rows.ids_of(name), return_counts=True)
        order = np.argsort(trained.ids[name])
        assert np.array_equal(trained.ids[name][order], ids)
        assert np.array_equal(trained.impressions[name][order], counts)
    run = result.teachers[1]
    item = next(feature for feature in run.features().categorical if feature.name == "item_id")
    table = run.checkpoint().read("table/item_id/full").numpy()
    for position, number in enumerate(trained.ids["item_id"][:5]):
        (code,) = item.encode_ids(np.array([number]))
        assert np.array_equal(trained.vectors["item_id"][position, 1], table[code])


def test_a_feature_that_a_student_lacks_is_left_out(
    result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path]
) -> None:
    """A teacher may have features of its own: it is bound to the rows, not to the features."""
    student = config.replace({"features": hashed(config)[:2]})
    features = prepare(student.data, student.features, roots[1]).features()
    known = trained_ids(result.teachers, result.teachers[0].rows("train"), features)
    assert set(known.ids) == set(known.vectors) == set(known.importance) == {"user_id", "item_id"}


def test_importance_is_the_sum_of_squared_gradients_of_single_rows(result: DistillationResult) -> None:
    """Against torch's own gradients of a row's loss by the rows of a table, one row of the log at a time."""
    run = result.teachers[0]
    tables = {
        name: run.checkpoint().read(f"table/{name}/full").numpy() for name in ("user_id", "item_id", "tags")
    }
    rows = run.rows("train")
    few = Rows.from_table(rows.features, rows.table.slice(0, 40))
    model = full_model(run, tables)
    summed = importance(model, few, 16)
    expected = {name: np.zeros(len(table)) for name, table in tables.items()}
    for position in range(len(few)):
        for name, squared in _squared_gradients(model, few, position).items():
            expected[name] += squared
    for name in ("user_id", "item_id"):
        np.testing.assert_allclose(summed[name], expected[name], rtol=1e-4, atol=1e-9)


def _squared_gradients(model: ClickModel, rows: Rows, position: int) -> dict[str, np.ndarray]:
    """Return |change of the loss by each row|² by finite differences of the row's vector."""
    batch = click_batch(model.engine, rows.batch(np.array([position])))
    weights = {name: value for name, value in model.engine.named_parameters() if name.endswith("full.weight")}
    for value in weights.values():
        value.requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch)[0], batch.label)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {
        name.split(".")[-2].removesuffix("/full"): gradient.to_dense().double().square().sum(dim=1).numpy()
        for name, gradient in zip(weights, gradients, strict=True)
    }


def test_ids_whose_rows_are_alike_share_a_row() -> None:
    random = np.random.default_rng(0)
    centres = 10 * random.normal(size=(5, 2, 4))
    groups = {"user": random.integers(0, 5, 60), "item": random.integers(0, 5, 40)}
    known = TrainedIds(
        ids={name: np.arange(len(group)) for name, group in groups.items()},
        vectors={
            n: (centres[g] + 0.01 * random.normal(size=(len(g), 2, 4))).astype(np.float32)
            for n, g in groups.items()
        },
        impressions={name: np.arange(len(group)) for name, group in groups.items()},
        importance={name: np.zeros(len(group)) for name, group in groups.items()},
    )
    codes = learned_codes(known, 5)
    rows = np.concatenate([codes.rows(known.ids[name], name)[0] for name in groups])
    group_of = np.concatenate(list(groups.values()))
    assert len({(a, b) for a, b in zip(group_of, rows, strict=True)}) == 5, (
        "one row for each group, whatever the field"
    )
    assert row_use(codes, known.ids) == (5, 5)
    often = known.seen(30)
    assert {name: len(ids) for name, ids in often.ids.items()} == {"user": 30, "item": 10}
    assert len(often) == 40
    both = learned_codes(known, 5, num_chunks=2)
    assert (both.num_chunks, both.num_embeddings) == (2, 5)
    control = random_codes(known, 5, seed=1)
    assert control.features == codes.features
    assert control != codes


def test_no_more_vectors_than_clusters_have_one_each_and_heavy_ones_come_first() -> None:
    few = np.zeros((3, 4), np.float32)
    assert nearest_centroids(few, np.ones(3), 8, 0).tolist() == [0, 1, 2]
    line = np.array([[0.0], [1.0], [2.0], [100.0]], np.float32)
    heavy = nearest_centroids(line, np.array([1e6, 1e6, 1e6, 1e-6]), 3, 0)
    assert len(set(heavy[:3])) == 3, "the light outlier shares a row with somebody"


def test_students_fit_the_budget_and_codes_are_counted_once(result: DistillationResult) -> None:
    assert result.compared is not None
    baseline, taught, student = result.compared.arms
    assert [arm.name for arm in (baseline, taught)] == ["small", "small-taught"]
    assert student.name == f"small-{result.chosen}"
    assert student.bytes["total"] <= result.budget_bytes < baseline.bytes["total"]
    assert set(result.scores) == set(result.students) == {"coded", "clustered", "unified"}
    assert result.scores[result.chosen] == max(result.scores.values())
    assert {codes.min_count for codes in result.codes} == {1, 400}
    assert all(codes.bytes <= result.budget_bytes for codes in result.codes)
    assert [run.config.training.seed for run in result.teachers] == [2000, 2001]
    json.dumps(result.to_dict())


def test_the_same_command_trains_nothing_again(
    result: DistillationResult,
    config: ExperimentConfig,
    roots: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recsys.training.train._train_into", None)
    monkeypatch.setattr("recsys.compression.students.learned_codes", None)
    ready = prepare(config.data, config.features, roots[1])
    with ThreadPoolExecutor(1) as pool:
        again = run_distillation(config, "60%", KINDS["auto"], ready, roots, pool, seeds=1)
    assert again.to_dict() | {"seconds": {}} == result.to_dict() | {"seconds": {}}


@pytest.fixture(scope="module")
def coded(result: DistillationResult, roots: tuple[Path, Path]) -> Run:
    """A run of the coded student, whichever was chosen."""
    student = load_experiment(result.students["coded"])
    return train(student, prepare(student.data, student.features, roots[1]), roots[0])


def test_a_coded_run_keeps_its_codes_and_is_exported(
    coded: Run, result: DistillationResult, tmp_path: Path
) -> None:
    from recsys.serving.export import ArtefactScorer, export

    shutil.copytree(coded.path, tmp_path / "moved")
    moved = Run.open(tmp_path / "moved")
    assert moved.config.tables.codes == tmp_path / "moved" / "codes"  # type: ignore[union-attr]
    rows = coded.rows("test")
    export(moved, tmp_path / "served", "fp32")
    scores = ArtefactScorer(tmp_path / "served").score(rows)
    np.testing.assert_allclose(scores, coded.predictions()["prediction"].to_numpy(), atol=2e-6)
    opened = artefact.open(tmp_path / "served")
    codes = next(
        c
        for c in result.codes
        if file_digest(c.folder / "codes.json") == file_digest(coded.path / "codes/codes.json")
    )
    assert opened.bytes.codes == coded.metrics["bytes"]["codes"] > 0
    assert coded.metrics["bytes"]["total"] == codes.bytes
    assert len({id(field.scheme.code_map) for field in opened.fields}) == 1


def test_an_exported_coded_run_answers_requests_as_it_predicts(coded: Run, log: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    from recsys.serving.export import export
    from recsys.serving.predictor import Predictor

    predictor = Predictor.open(export(coded, tmp_path / "served", "fp32").folder)
    predicted = coded.predictions()
    rows = pq.read_table(log).take(predicted["row_id"]).select(predictor.transform.columns).to_pylist()
    np.testing.assert_allclose(predictor.predict(rows), predicted["prediction"].to_numpy(), atol=2e-6)


def test_the_cost_counts_what_codes_take(
    config: ExperimentConfig, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare(config.data, config.features, roots[1])
    monkeypatch.setattr(cost, "measure_speed", lambda *_: Measured(1000.0, 10, 400))
    monkeypatch.setattr(cost, "clustering_seconds", lambda *_: 7.0)
    coded, unified = (expected_cost(config, [kind], ready, 0, 1) for kind in ("coded", "unified"))
    students, dim = config.compression.students, config.tables.embedding_dim
    ids = sum(feature.num_codes or 0 for feature in ready.features().categorical)
    assert coded.seconds - unified.seconds == pytest.approx(
        students.teachers * 0.4 + len(students.min_counts) * 7
    )
    assert coded.memory - unified.memory == 12 * students.teachers * dim * ids > 0


def test_codes_of_another_training_are_refused(
    coded: Run, result: DistillationResult, tmp_path: Path
) -> None:
    shutil.copytree(coded.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "codes")
    of_run = file_digest(coded.path / "codes/codes.json")
    other = next(c.folder for c in result.codes if file_digest(c.folder / "codes.json") != of_run)
    shutil.copytree(other, tmp_path / "run" / "codes")
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        Run.open(tmp_path / "run").checkpoint()


def test_a_budget_below_the_codes_and_ids_that_are_all_rare_end_in_a_sentence(
    config: ExperimentConfig, roots: tuple[Path, Path]
) -> None:
    ready, pool = prepare(config.data, config.features, roots[1]), ThreadPoolExecutor(1)
    with pytest.raises(
        ConfigError, match=r"min_counts: codes of the 12 ids .* take \d\d bytes, and the budget is 50"
    ):
        run_distillation(config, "50B", KINDS["coded"], ready, roots, pool, seeds=0)
    rare = config.replace({"compression.students.min_counts": [100_000]})
    with pytest.raises(
        ConfigError, match=r"no id of training has 100000 impressions, of 1.. ids in all: list a smaller"
    ):
        run_distillation(rare, "60%", KINDS["coded"], ready, roots, pool, seeds=0)
    small = config.replace({"tables": {"scheme": "hash", "budget": "50%"}, "features.encoding": "hash"})
    with pytest.raises(ConfigError, match=r"tables\.scheme is 'hash'; a search starts from full tables"):
        run_distillation(small, "60%", KINDS["auto"], ready, roots, pool, seeds=0)


def test_students_of_predictions_alone_are_unified(
    result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    (file,) = (roots[0] / "teachers").glob("*.parquet")
    named = config.replace({"training.teacher": {"predictions": str(file)}})
    ready = prepare(config.data, config.features, roots[1])
    with ThreadPoolExecutor(1) as pool:
        taught = run_distillation(named, "60%", KINDS["unified"], ready, roots, pool, seeds=1)
        assert taught.teachers == []
        assert taught.scores["unified"] == pytest.approx(result.scores["unified"], abs=1e-6)
        with pytest.raises(ConfigError, match="or take --into unified"):
            run_distillation(named, "60%", KINDS["coded"], ready, roots, pool, seeds=1)
    assert expected_cost(named, KINDS["unified"], ready, 1, 1).runs["teachers"] == 0
    write_compression(taught, tmp_path / "report.html")
    assert "What the teacher predicts was there already" in (tmp_path / "report.html").read_text()


def test_rows_are_capped_by_ids_by_the_setting_and_by_the_budget(config: ExperimentConfig) -> None:
    assert most_rows(config, 10**9, 50, 1) == 50
    assert most_rows(config, 10**9, 10**6, 1) == 4096
    assert most_rows(config.replace({"compression.students.max_rows": 7}), 10**9, 10**6, 1) == 7
    assert most_rows(config, 10**9, 10**6, 4) == 181, "codes are below 2^30"
    fitting = most_rows(config, 5000, 300, 1)
    assert 150 < fitting < 5000 // 20
    assert most_rows(config, 10, 300, 1) == 0


def test_the_report_answers_first(result: DistillationResult, tmp_path: Path) -> None:
    write_compression(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    text = summary(result)
    assert text.startswith(f"{result.chosen.capitalize()} tables within 60% take ")
    assert "with the same teacher" in text
    assert "loss against full, at most" in page
    assert "Codes that were tried" in page
    untrained = replace(result, compared=None, artefact=None)
    assert summary(untrained).startswith("No seeds were trained")
    write_compression(untrained, tmp_path / "untrained.html")
    assert result.compared is not None
    (power,) = (item for item in result.compared.judged.power if item.arm.startswith("small-t") is False)
    low = None if power.interval is None else power.interval[0]
    assert loss_at_most(power) == (None if low is None else max(0.0, -low))


def test_the_command_says_what_it_costs_and_what_it_found(
    config: ExperimentConfig, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    folders = ["--runs", str(roots[0]), "--prepared", str(roots[1])]
    base = ["compress", str(file), "--budget", "60%", "--seeds", "1", "--jobs", "1", *folders]
    cost: dict[str, Any] = json.loads(CliRunner().invoke(cli.app, [*base, "--dry-run", "--json"]).stdout)
    assert cost["runs"] == {
        "trials of the full table": 0,
        "teachers": 2,
        "trials of students": 3,
        "trials of the full table with the teacher": 0,
        "seeds of three arms": 3,
    }
    assert min(cost["seconds"], cost["memory"], cost["disk"]) > 0
    told = CliRunner().invoke(cli.app, [*base, "--into", "auto", "--report", str(tmp_path / "r.html")])
    assert told.exit_code == 0, told.output
    assert "0.002 in AUC" in " ".join(told.stdout.split())
    assert (tmp_path / "r.html").exists()
    plain = CliRunner().invoke(cli.app, [*base, "--dry-run"]).stdout
    assert "at most" in plain
    refused = CliRunner().invoke(cli.app, [*base, "--into", "compact", "--dry-run"])
    assert "--dry-run knows what students of teachers take" in str(refused.exception)


def test_a_clustered_student_begins_as_its_teacher_clustered(
    result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path], trained: TrainedIds
) -> None:
    """Against the teacher itself with the row of every id replaced by the mean of its cluster."""
    student = load_experiment(result.students["clustered"])
    run = train(student, prepare(student.data, student.features, roots[1]), roots[0])
    start = run.metrics["history"][0]
    assert (start["epoch"], start["rows"]) == (0, 0)
    assert run.metrics["validation"]["logloss"] <= start["validation_logloss"]
    teacher = result.teachers[0]
    codes = Codes.open(student.tables.codes)  # type: ignore[union-attr]
    assert codes.num_chunks == 2
    tables = {
        name: teacher.checkpoint().read(f"table/{name}/full").numpy().copy()
        for name in ("user_id", "item_id", "tags")
    }
    for chunk, means in enumerate(centroids(codes, trained, 0)):
        width = means.shape[1]
        for feature in teacher.features().categorical:
            known = feature.encode_ids(feature.ids)
            rows = codes.rows(feature.ids, feature.name)[chunk]
            tables[feature.name][known, chunk * width : (chunk + 1) * width] = means[rows]
    with process_group():
        expected = predict(full_model(teacher, tables), teacher.rows("validation"), teacher.config)
    labels = teacher.rows("validation").label
    assert start["validation_logloss"] == pytest.approx(logloss(labels, expected), abs=2e-4)


def test_a_clustered_student_has_the_network_of_its_teacher(
    result: DistillationResult, config: ExperimentConfig
) -> None:
    other = config.replace({"model": {"name": "lr"}})
    with pytest.raises(ConfigError, match="model differs: make it the same, or take --into coded"):
        like_teacher(other, result.teachers[0])


def test_auto_goes_on_without_clustered_students_where_they_cannot_begin(
    result: DistillationResult, config: ExperimentConfig, trained: TrainedIds, roots: tuple[Path, Path]
) -> None:
    student = config.replace({"features": hashed(config)})
    features = prepare(student.data, student.features, roots[1]).features()
    known = Known(result.budget_bytes, result.teachers, features, trained, roots[0], no_progress)
    other, teacher = config.replace({"model": {"name": "lr"}}), TeacherConfig(runs=2)
    made = students_of(other, "60%", KINDS["auto"], known, teacher)
    assert set(made.configs) == {"coded", "unified"}
    assert "model differs" in made.left_out["clustered"]
    text = summary(replace(result, left_out=made.left_out, compared=None))
    assert "Left out were clustered tables: small: a clustered student begins with" in text
    with pytest.raises(ConfigError, match="model differs"):
        students_of(other, "60%", KINDS["clustered"], known, teacher)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_trains_the_same_students(
    result: DistillationResult, config: ExperimentConfig, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    from recsys.comparison.pool_on_ray import ray_pool

    ready = prepare(config.data, config.features, roots[1])
    with ray_pool(2) as pool:
        again = run_distillation(
            config, "60%", KINDS["auto"], ready, (tmp_path / "runs", roots[1]), pool, seeds=1
        )
    assert again.scores == pytest.approx(result.scores, abs=1e-6)
    assert again.chosen == result.chosen
