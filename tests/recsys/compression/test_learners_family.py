"""The pruning family under the ordinary loop: every learner trains, resumes to the bit, and ends as compact tables."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recsys.compression.learners import learned_of
from recsys.config import ExperimentConfig, parse_experiment
from recsys.training.distributed import dense_tensors, process_group, shard_model
from recsys.training.loop import Watch, fit, make_model
from recsys.training.run import Run, run_folder
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables import Full
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.device import default_device
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.schemes.compact import compact_from

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]

FIELDS = [
    {"name": "user_id", "num_ids": 100, "zipf": 0.4},
    {"name": "trace", "num_ids": 400, "zipf": 0.8, "signal": 0.0},
    {"name": "tags", "num_ids": 30, "multivalued": 2.0},
]
SETTINGS: dict[str, Any] = {
    "training.table_lr": 0.03,
    "training.table_weight_decay": 0.15,
    "training.table_decay_every": 5,
    "training.batch_size": 128,
    "training.epochs": 2,
    "training.patience": 9,
    "job.checkpoint.every_steps": 7,
}
LEARNERS: dict[str, dict[str, Any]] = {
    "pep": {"threshold_init": -6.0, "threshold_decay": 1e-3, "threshold_lr": 0.05},
    "deep_light": {"sparsity": 0.7, "damping": 0.1},
    "auto_dim": {"alpha": 0.02, "annealing": 0.01, "choice_lr": 0.03},
    "auto_srh": {"l1": 2e-4, "cut": 0.3, "scale_lr": 0.02},
    "mde": {},
}


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    generator = {"rows": 6_000, "history": 0, "numeric": 1, "main": 1.0, "fields": FIELDS}
    return configure(
        SETTINGS,
        data={
            **{"source": "generated", "generator": generator, "user": "user_id", "time": "time"},
            **{"truth": "true_probability", "split": {"by": "random"}},
        },
        features=[
            {"kind": "categorical", "names": ["user_id", "trace"]},
            {"kind": "categorical", "names": ["tags"], "multivalued": True, "pooling": "mean"},
        ],
    )


@pytest.fixture(scope="module")
def folder(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(config.data, config.features, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module", params=LEARNERS)
def learner(
    request: pytest.FixtureRequest,
    config: ExperimentConfig,
    folder: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    own = {"scheme": request.param, "embedding_dim": 8} | LEARNERS[request.param]
    return train(config.replace({"tables": own}), folder, tmp_path_factory.mktemp(request.param))


def engine_with(run: Run, folder: Prepared) -> EmbeddingEngine:
    """Restore the engine of the run's model, in evaluation."""
    with process_group():
        features = Rows.load(folder.path, "test").features
        model = shard_model(make_model(run.config, features), run.config, default_device())
        Checkpoint(run.path / "checkpoint").load_into(model)
        return engine_of(model).eval()


def test_a_compact_model_of_what_was_learned_is_the_learner(folder: Prepared, learner: Run) -> None:
    learned, tables = learned_of(learner), Checkpoint(learner.path / "checkpoint").tables()
    engine, scheme = engine_with(learner, folder), learner.config.tables.scheme
    assert set(learned.weights) == {"user_id", "trace", "tags"}
    for feature, weights in learned.weights.items():
        ids, keep, width = np.arange(len(weights)), learned.score[feature] > 0, learned.widths[feature]
        masked = engine.vectors_of(feature, ids, tables)
        np.testing.assert_allclose(weights, masked, atol=1e-6)
        full = Full(feature, len(weights), 8)
        schemes, compact = compact_from(
            [full], {f"{feature}/full": weights}, {feature: keep}, {feature: width}
        )
        vectors = EmbeddingEngine([Field(schemes[0])]).vectors_of(feature, ids, compact)
        np.testing.assert_allclose(vectors, masked, atol=1e-6)
    used = {feature: (weights != 0).mean() for feature, weights in learned.weights.items()}
    assert used["trace"] < 1, "something is masked"
    if scheme != "mde":
        assert used["trace"] < used["user_id"], "most of it where there is no signal"
    assert learner.metrics["test"]["auc"] > 0.6


class Interrupted(Exception):
    pass


def test_an_interrupted_learner_ends_as_one_that_was_not(
    folder: Prepared, learner: Run, tmp_path: Path
) -> None:
    """Counted batches, running quantiles and draws are those of the number of the step."""
    steps = iter(range(45))

    def step() -> None:
        if next(steps, None) is None:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(learner.config, folder, tmp_path, Watch(step=step))
    assert list((run_folder(learner.config, folder, tmp_path) / "checkpoints").iterdir())
    again = train(learner.config, folder, tmp_path)
    saved = [Checkpoint(run.path / "checkpoint") for run in (learner, again)]
    assert saved[0].names == saved[1].names
    assert [name for name in saved[0].names if not saved[0].read(name).equal(saved[1].read(name))] == []
    assert again.metrics["history"] == learner.metrics["history"]
    if learner.config.tables.scheme in ("deep_light", "auto_dim"):
        counted = [saved[1].read(name).item() for name in saved[1].names if name.endswith(".steps")]
        assert len(counted) == 3
        assert len(set(counted)) == 1
        assert counted[0] > 0


# ---- several ranks


def alone(folder: Path, in_ranks: Callable[..., list[int]]) -> None:
    in_ranks(2, work, folder)


def work(rank: int, folder: Path) -> None:
    """Train on two ranks, and write down what the combines of this one hold."""
    found = yaml.safe_load((folder / "setting.yaml").read_text())
    parts = [Rows.load(Path(found["prepared"]), part) for part in ("train", "validation")]
    for scheme, config in found["configs"].items():
        fitted = fit(parse_experiment(config, "setting.yaml"), *parts)
        held = {name: v.tolist() for name, v in dense_tensors(fitted.model).items() if ".combines." in name}
        (folder / f"{scheme}-{rank}.json").write_text(json.dumps(held))


@pytest.mark.slow
def test_two_ranks_hold_one_count_and_one_threshold(
    run_ranks: Callable[..., str], config: ExperimentConfig, folder: Prepared, tmp_path: Path
) -> None:
    schemes = ("deep_light", "auto_dim")

    def raw(scheme: str) -> dict[str, Any]:
        own = {"scheme": scheme, "embedding_dim": 8} | LEARNERS[scheme]
        return config.replace({"tables": own, "training.epochs": 1}).model_dump(mode="json")

    found = {"prepared": str(folder.path), "configs": {scheme: raw(scheme) for scheme in schemes}}
    (tmp_path / "setting.yaml").write_text(yaml.safe_dump(found))
    run_ranks(__file__, "alone", tmp_path)
    batches = -(-len(Rows.load(folder.path, "train")) // 128)
    for scheme in schemes:
        first, second = (json.loads((tmp_path / f"{scheme}-{rank}.json").read_text()) for rank in (0, 1))
        assert first == second
        steps = [value for name, value in first.items() if name.endswith(".steps")]
        assert steps == [[batches]] * 3
        assert all(value != [0] for name, value in first.items() if name.endswith(".threshold"))
