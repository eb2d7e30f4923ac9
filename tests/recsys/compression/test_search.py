"""From full tables to small ones: a learner, a search on validation rows, compact tables that are what was searched."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from recsys import cli
from recsys.compression import stages
from recsys.compression.compact import write_compact
from recsys.compression.learners import learned_of
from recsys.compression.saliency import with_defaults
from recsys.compression.search import CompressionResult, run_compression
from recsys.compression.space import Genome
from recsys.compression.supernet import Supernet, evaluator, validation_rows
from recsys.config import ConfigError, ExperimentConfig, load_experiment
from recsys.evaluation.metrics import auc
from recsys.planning import plan_of
from recsys.training.distributed import process_group
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.planning.plan import BudgetError
from recsys_tables.serving import artefact

Configure = Callable[..., ExperimentConfig]
SHRINK = {
    "learner": {"tables.scheme": "opt_embed", "training.table_weight_decay": 0.1},
    "population": 6,
    "mutations": 3,
    "crossovers": 3,
    "generations": 2,
}


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    return configure({"training.epochs": 1}, compression=SHRINK)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def found(config: ExperimentConfig, roots: tuple[Path, Path]) -> CompressionResult:
    ready = prepare(config.data, config.features, roots[1])
    return run_compression(config, "40%", ready, roots, evaluator, seeds=1, jobs=1)


def supernet_of(found: CompressionResult) -> tuple[Run, Any, Rows]:
    run = found.learner
    prepared = Path(run.metrics["prepared"])
    learned = with_defaults(learned_of(run), Rows.load(prepared, "train"), 1)
    return run, learned, Rows.load(prepared, "validation")


def test_all_that_the_learner_keeps_predicts_as_the_learner_does(found: CompressionResult) -> None:
    run, learned, rows = supernet_of(found)
    untrained = replace(learned, default={name: weights[1] for name, weights in learned.weights.items()})
    everything = found.space.everything()
    supernet = Supernet(run, untrained, found.space, rows)
    kept = all(score[2:].min() > 0 for score in learned.score.values())
    assert kept, "the learner prunes nothing here"
    assert supernet.quality(everything) == pytest.approx(run.metrics["validation"]["auc"], abs=1e-6)


def test_a_genome_is_judged_as_its_compact_tables_are_before_training(
    found: CompressionResult, config: ExperimentConfig, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    """Masks on the supernet, and the compact experiment that starts from its weights, say the same of every row."""
    run, learned, rows = supernet_of(found)
    space = found.space
    genome = space.fit(space.uniform(4, 0.5), space.bytes(space.everything()))
    inherits = config.replace({"compression.weights": "inherited"})
    file = write_compact(inherits, "half", run, learned, space, genome, tmp_path)
    compact = load_experiment(file)
    ready = prepare(compact.data, compact.features, roots[1])
    assert plan_of(compact, ready.features()).bytes.total == space.bytes(genome)

    from recsys.training.distributed import shard_model
    from recsys.training.loop import make_model
    from recsys_tables.distributed.pieces import load_start

    with process_group():
        model = shard_model(make_model(compact, ready.features()), compact, torch.device("cpu"))
        load_start(compact.training.start, model)
        predictions = predict(model, Rows.load(ready.path, "validation"), compact)
    supernet = Supernet(run, learned, space, rows)
    assert supernet.quality(genome) == pytest.approx(auc(rows.label, predictions), abs=1e-6)


def test_the_search_is_what_its_compact_experiment_trains(found: CompressionResult) -> None:
    assert found.compared is not None
    best = found.outcomes["evolution"].best
    assert best.bytes <= found.budget_bytes == int(0.4 * found.full_bytes)
    full, compact, *rivals = found.compared.arms
    assert full.bytes["full_table"] == found.full_bytes
    assert compact.bytes["total"] == best.bytes
    assert [arm.name for arm in rivals] == ["small-random", "small-uniform"]
    file = load_experiment(found.compact["evolution"])
    assert file.tables.scheme == "compact"
    assert file.tables.widths == dict(zip(found.space.features, found.best.widths, strict=True))
    kept = {name: keep.sum() - 2 for name, keep in found.space.keep(found.best).items()}
    features = Features.load(compact.runs[0].path / "features")
    for feature, width in zip(features.categorical, found.best.widths, strict=True):
        assert feature.num_codes - 2 == (kept[feature.name] if width else 0)


def test_rivals_have_as_many_evaluations_and_the_best_is_one_that_was_scored(
    found: CompressionResult,
) -> None:
    evolution = found.outcomes["evolution"]
    assert found.outcomes["random"].evaluations == evolution.evaluations
    assert found.outcomes["uniform"].evaluations <= evolution.evaluations
    run, learned, rows = supernet_of(found)
    supernet = Supernet(run, learned, found.space, rows)
    for outcome in found.outcomes.values():
        assert outcome.best in outcome.evaluated
        assert supernet.quality(outcome.best.genome) == pytest.approx(outcome.best.quality, abs=1e-9)


def test_the_artefact_serves_the_compact_run(found: CompressionResult) -> None:
    assert found.artefact is not None
    assert found.compared is not None
    served = artefact.open(found.artefact)
    assert served.bytes.serving == found.compared.arms[1].bytes["serving"]


def test_the_same_command_evaluates_and_trains_nothing_again(
    found: CompressionResult,
    config: ExperimentConfig,
    roots: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> float:
        raise AssertionError("was known")

    monkeypatch.setattr(Supernet, "quality", never)
    ready = prepare(config.data, config.features, roots[1])
    named = str(roots[0]), str(roots[1])  # by text as by paths
    again = run_compression(config, "40%", ready, named, evaluator, seeds=1, jobs=1)
    assert again.to_dict() == found.to_dict()
    json.dumps(again.to_dict())


def test_what_cannot_be_searched_is_said(
    config: ExperimentConfig, roots: tuple[Path, Path], found: CompressionResult
) -> None:
    ready = prepare(config.data, config.features, roots[1])
    with pytest.raises(BudgetError, match="smallest tables that keep every field need"):
        run_compression(config, "100B", ready, roots, evaluator, seeds=0)
    hashed = config.replace({"tables": {"scheme": "opt_embed", "embedding_dim": 8}})
    with pytest.raises(ConfigError, match="a search starts from full tables"):
        run_compression(hashed, "40%", ready, roots, evaluator, seeds=0)
    plain = config.replace({"compression.learner": {"training.epochs": 1}})
    with pytest.raises(ConfigError, match="scheme 'full' learn no masks"):
        run_compression(plain, "40%", ready, roots, evaluator, seeds=0)
    with pytest.raises(ValueError, match="'10' is not a budget"):
        run_compression(config, "10", ready, roots, evaluator, seeds=0)
    for key in ("features.min_count", "training.seed", "tables.embedding_dim"):
        with pytest.raises(ConfigError, match=f"'{key}' cannot differ from the experiment's"):
            config.replace({"compression.learner": {key: 4}})
    with pytest.raises(ValueError, match="gives up every field"):
        found.space.keep(Genome((0, 0, 0), (0, 0, 0)))


def test_validation_rows_are_drawn_from_validation_alone(prepared: Prepared) -> None:
    rows = validation_rows(prepared.path, 100, 0)
    everyone = Rows.load(prepared.path, "validation")
    assert len(rows) == 100
    assert set(rows.row_id) <= set(everyone.row_id)
    assert (np.diff(rows.row_id) > 0).all()
    assert np.array_equal(rows.row_id, validation_rows(prepared.path, 100, 0).row_id)
    assert len(validation_rows(prepared.path, 10**6, 0)) == len(everyone)


@pytest.mark.slow
def test_ray_workers_find_the_same_qualities(found: CompressionResult) -> None:
    from recsys.compression.supernet_on_ray import ray_evaluator

    run, learned, rows = supernet_of(found)
    supernet = Supernet(run, learned, found.space, rows)
    genomes = [scored.genome for scored in found.outcomes["evolution"].evaluated[:6]]
    with ray_evaluator(supernet, 2) as evaluate_:
        assert list(evaluate_(genomes)) == [supernet.quality(genome) for genome in genomes]


def test_the_command_says_what_it_found_and_trains_nothing_that_is_there(
    found: CompressionResult, config: ExperimentConfig, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    file, report = tmp_path / "small.yaml", tmp_path / "r.html"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    folders = ["--runs", str(roots[0]), "--prepared", str(roots[1])]
    command = [
        "compress",
        str(file),
        "--into",
        "compact",
        "--budget",
        "40%",
        "--seeds",
        "1",
        *folders,
        "--report",
        str(report),
    ]
    told = json.loads(CliRunner().invoke(cli.app, [*command, "--json"], catch_exceptions=False).stdout)
    assert told["searches"]["evolution"]["genome"] == found.best.to_dict()
    assert told["artefact"] == str(found.artefact)
    shown = CliRunner().invoke(cli.app, command, catch_exceptions=False).stdout
    assert "Within 40%" in shown
    assert str(found.compact["evolution"]) in shown.replace("\n", "")
    page = report.read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "Pareto front" in page


def test_a_compact_experiment_is_never_written_over(
    found: CompressionResult, config: ExperimentConfig, tmp_path: Path
) -> None:
    """Of other settings there is another folder, and one that was cut off is made anew."""
    run, learned, _ = supernet_of(found)
    first = write_compact(config, "a", run, learned, found.space, found.best, tmp_path)
    written = {file: file.stat().st_mtime_ns for file in first.parent.rglob("*")}
    assert write_compact(config, "a", run, learned, found.space, found.best, tmp_path) == first
    assert written == {file: file.stat().st_mtime_ns for file in first.parent.rglob("*")}
    scores = {name: score[::-1].copy() for name, score in found.space.scores.items()}
    reranked = replace(found.space, scores=scores)
    assert write_compact(config, "a", run, learned, reranked, found.best, tmp_path) != first, "other ids"
    inherits = config.replace({"compression.weights": "inherited", "training.start": None})
    other = write_compact(inherits, "a", run, learned, found.space, found.best, tmp_path)
    assert other.parent != first.parent
    assert load_experiment(first).training.start is None
    assert load_experiment(other).training.start == other.with_name("start.safetensors")
    cut = first.parent.with_name(f".{first.parent.name}.{'0' * 16}.tmp")
    first.parent.rename(cut)
    (cut / "experiment.yaml").unlink()
    assert write_compact(config, "a", run, learned, found.space, found.best, tmp_path) == first
    assert load_experiment(first).tables.scheme == "compact"
    assert not cut.exists()


def test_another_learner_is_judged_anew(found: CompressionResult, config: ExperimentConfig) -> None:
    """The same path with other weights has no known qualities."""
    manifest = found.learner.path / "checkpoint" / "manifest.json"
    before = stages.search_digest(config, found.learner)
    content = manifest.read_bytes()
    manifest.write_bytes(content + b" ")
    try:
        assert stages.search_digest(config, found.learner) != before
    finally:
        manifest.write_bytes(content)
    for key in ("validation_rows", "min_count", "seed"):
        assert stages.search_digest(config.replace({f"compression.{key}": 7}), found.learner) != before
    assert (found.learner.path / f"saliency-{stages.VERSION}.npz").exists(), "goes with the run"
