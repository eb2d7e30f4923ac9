"""OptEmbed's supernet under the ordinary loop: it prunes, goes on to the bit, and says what it has learned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.compression.learners import learned_of
from recsys.config import ConfigError, ExperimentConfig
from recsys.training.distributed import process_group, shard_model
from recsys.training.loop import Watch, make_model
from recsys.training.run import Run, run_folder
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.sources.generated import truth
from recsys_tables import Full
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.device import default_device
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.schemes.compact import compact_from

Configure = Callable[..., ExperimentConfig]

FIELDS = [
    {"name": "user_id", "num_ids": 200, "zipf": 0.4},
    {"name": "item_id", "num_ids": 100, "zipf": 0.6, "useless_share": 0.3},
    {"name": "tags", "num_ids": 50, "multivalued": 2.0},
    {"name": "trace", "num_ids": 800, "zipf": 0.8, "signal": 0.0},
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


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    generator = {"rows": 12_000, "history": 0, "numeric": 1, "main": 1.0, "fields": FIELDS}
    return configure(
        SETTINGS,
        data={
            "source": "generated",
            "generator": generator,
            "user": "user_id",
            "time": "time",
            "truth": "true_probability",
            "split": {"by": "random"},
        },
        features=[
            {"kind": "categorical", "names": ["user_id", "item_id", "trace"]},
            {"kind": "categorical", "names": ["tags"], "multivalued": True, "pooling": "mean"},
        ],
        tables={"scheme": "opt_embed", "embedding_dim": 8, "alpha": 6e-3, "threshold_lr": 0.01},
    )


@pytest.fixture(scope="module")
def folder(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(config.data, config.features, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def supernet(config: ExperimentConfig, folder: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(config, folder, tmp_path_factory.mktemp("supernet"))


@pytest.fixture(scope="module")
def by_id(config: ExperimentConfig, folder: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    tables = {"scheme": "opt_embed", "embedding_dim": 8, "alpha": 1e-2, "threshold_by": "id"}
    return train(config.replace({"tables": tables}), folder, tmp_path_factory.mktemp("by_id"))


def engine_with(run: Run, folder: Prepared) -> EmbeddingEngine:
    """Restore the engine of the run's model, in evaluation."""
    with process_group():
        features = Rows.load(folder.path, "test").features
        model = shard_model(make_model(run.config, features), run.config, default_device())
        Checkpoint(run.path / "checkpoint").load_into(model)
        return engine_of(model).eval()


def test_training_prunes_ids_without_signal_and_keeps_those_with(
    config: ExperimentConfig, folder: Prepared, supernet: Run
) -> None:
    learned = learned_of(supernet)
    rows = Rows.load(folder.path, "train")
    kept = {name: score[2:] > 0 for name, score in learned.score.items()}
    assert kept["trace"].mean() < 0.4
    known = truth(config.data.generator)["user_id"]  # type: ignore[arg-type]
    assert known.useful.all()
    often = np.bincount(rows.ids_of("user_id"), minlength=len(kept["user_id"]) + 2)[2:] >= 20
    assert kept["user_id"][often].mean() > 0.8


@pytest.mark.parametrize("run", ["supernet", "by_id"])
def test_a_compact_model_of_what_was_learned_is_the_supernet(
    request: pytest.FixtureRequest, folder: Prepared, run: str
) -> None:
    found: Run = request.getfixturevalue(run)
    learned, tables = learned_of(found), Checkpoint(found.path / "checkpoint").tables()
    engine = engine_with(found, folder)
    assert set(learned.weights) == {"user_id", "item_id", "trace", "tags"}
    assert set(learned.widths.values()) == {8}
    for feature, weights in learned.weights.items():
        ids, keep = np.arange(len(weights)), learned.score[feature] > 0
        masked = engine.vectors_of(feature, ids, tables)
        np.testing.assert_allclose(weights, masked, atol=1e-6)
        full = Full(feature, len(weights), 8)
        schemes, compact = compact_from([full], {f"{feature}/full": weights}, {feature: keep}, {feature: 8})
        vectors = EmbeddingEngine([Field(schemes[0])]).vectors_of(feature, ids, compact)
        np.testing.assert_allclose(vectors, masked, atol=1e-6)
    assert not all((score > 0).all() for score in learned.score.values()), "something was pruned"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("run", ["supernet", "by_id"])
def test_an_interrupted_supernet_ends_as_one_that_was_not(
    request: pytest.FixtureRequest, folder: Prepared, tmp_path: Path, run: str
) -> None:
    """Widths are drawn and sweeps are due by the number of the step alone."""
    whole: Run = request.getfixturevalue(run)
    for after in (33, 60):
        steps = iter(range(after))

        def step(steps: Any = steps) -> None:
            if next(steps, None) is None:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(whole.config, folder, tmp_path, Watch(step=step))
    assert list((run_folder(whole.config, folder, tmp_path) / "checkpoints").iterdir())
    again = train(whole.config, folder, tmp_path)
    saved = [Checkpoint(each.path / "checkpoint") for each in (whole, again)]
    assert saved[0].names == saved[1].names
    assert [name for name in saved[0].names if not saved[0].read(name).equal(saved[1].read(name))] == []
    assert again.metrics["history"] == whole.metrics["history"]


def test_a_history_and_its_target_leave_one_mask(configure: Configure, tmp_path: Path) -> None:
    data = configure().data.model_dump(mode="json") | {"time": "time", "split": {"by": "time"}}
    config = configure(
        SETTINGS | {"training.epochs": 1},
        data=data,
        features=[
            {"kind": "categorical", "names": ["user_id", "item_id"]},
            {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"},
        ],
        tables={"scheme": "opt_embed", "embedding_dim": 8, "alpha": 1e-2, "threshold_lr": 0.01},
        model={
            **{"name": "din", "hidden": [8], "attention_hidden": [4]},
            "interests": [{"target": "item_id", "history": "seen"}],
        },
    )
    run = train(config, prepare(config.data, config.features, tmp_path / "prepared"), tmp_path / "runs")
    learned = learned_of(run)
    assert set(learned.score) == {"user_id", "item_id"}
    saved = Checkpoint(run.path / "checkpoint")
    table = saved.read("table/item_id/full").numpy()
    thresholds = [float(saved.read(f"dense/engine.combiner.combines.{i}.threshold")) for i in (1, 2)]
    assert thresholds[0] != thresholds[1], "the history learned one of its own"
    kept = np.abs(table).sum(axis=1) > min(thresholds)
    assert np.array_equal(learned.score["item_id"] > 0, kept)
    assert np.array_equal(learned.weights["item_id"], table * kept[:, None])


def test_tables_that_learn_no_mask_are_refused(run: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"tables of scheme 'full' learn no masks; train a scheme that does"
    ):
        learned_of(run)
