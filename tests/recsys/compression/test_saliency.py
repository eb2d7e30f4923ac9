"""What training rows would lose with a row of a table: against one backward pass a sample."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from recsys.compression.saliency import ranked_by_saliency, saliency, with_defaults
from recsys.compression.space import Learned
from recsys.compression.supernet import full_model
from recsys.training.feed import click_batch
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.sources.generated import truth
from recsys_tables.distributed.checkpoint import Checkpoint

from ..conftest import Configure


def learned_from(run: Run, names: list[str]) -> Learned:
    """Read a full table's run as that of a learner that keeps all."""
    saved = Checkpoint(run.path / "checkpoint")
    weights = {name: saved.read(f"table/{name}/full").numpy() for name in names}
    score = {name: np.ones(len(table)) for name, table in weights.items()}
    default = {name: np.zeros(table.shape[1], np.float32) for name, table in weights.items()}
    return Learned(weights, score, {name: table.shape[1] for name, table in weights.items()}, default)


def by_sample(run: Run, learned: Learned, rows: Rows) -> dict[str, np.ndarray]:
    """Return the oracle: a sample's gradient by a whole table is not 0 in the rows that it looks up."""
    model = full_model(run, learned.weights)
    found = {name: np.zeros(len(table)) for name, table in learned.weights.items()}
    tables = {key.split("embedding_bags.")[1]: p for key, p in model.engine.named_parameters()}
    parts = {name: torch.from_numpy(table - learned.default[name]) for name, table in learned.weights.items()}
    for position in range(len(rows)):
        batch = click_batch(model.engine, rows.batch(np.array([position])))
        model.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(batch)[0], batch.label).backward()
        for name in found:
            table = tables[f"{name}/full.weight"]
            found[name] += (table.grad * parts[name]).sum(dim=1).double().numpy() ** 2 / 2
    return found


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_it_is_the_squared_change_of_every_samples_loss(
    pooling: str, configure: Configure, tmp_path: Path
) -> None:
    from recsys.training.train import train

    features = [
        {"kind": "numeric", "names": ["x"]},
        {"kind": "categorical", "names": ["user_id", "item_id"]},
        {"kind": "categorical", "names": ["tags"], "multivalued": True, "pooling": pooling},
    ]
    config = configure({"training.epochs": 1}, features=features)
    ready = prepare(config.data, config.features, tmp_path / "prepared")
    run = train(config, ready, tmp_path / "runs")
    learned = learned_from(run, ["user_id", "item_id", "tags"])
    rows = Rows.load(ready.path, "validation")
    learned = with_defaults(learned, rows, 1)
    some = Rows.from_table(rows.features, rows.table.slice(0, 40))
    expected = by_sample(run, learned, some)
    done = []
    found = saliency(full_model(run, learned.weights), learned, some, 16, lambda *told: done.append(told))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-10)
        assert (expected[name] > 0).any()
    assert done == [("rank rows", done, 40) for done in (16, 32, 40)]


def test_a_default_is_the_mean_over_impressions(run: Run, prepared: Prepared) -> None:
    rows = Rows.load(prepared.path, "train")
    learned = with_defaults(learned_from(run, ["user_id", "item_id", "tags"]), rows, 130)
    for name, weights in learned.weights.items():
        mean = weights[rows.ids_of(name)].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(learned.default[name], mean, rtol=1e-4, atol=1e-7)
        counts = np.bincount(rows.ids_of(name), minlength=len(weights))
        assert np.array_equal(learned.score[name] > 0, counts >= 130), "rare ids cannot be kept"
    unknown = learned_from(run, ["item_id"])
    table = rows.table.set_column(
        rows.table.schema.get_field_index("item_id"), "item_id", pa.array(np.ones(len(rows), np.int32))
    )
    of_unknown = with_defaults(unknown, Rows.from_table(rows.features, table), 1)
    assert np.array_equal(of_unknown.default["item_id"], unknown.weights["item_id"][1])
    masked = learned.masked("item_id", np.arange(42) < 5, 4)
    assert np.array_equal(masked[[0, 2, 3, 4], :4], learned.weights["item_id"][[0, 2, 3, 4], :4])
    assert (masked[[1, 5, 41], :4] == learned.default["item_id"][:4]).all()
    assert not masked[:, 4:].any()


def test_what_the_learner_prunes_has_no_rank(run: Run, prepared: Prepared) -> None:
    learned = learned_from(run, ["user_id", "item_id", "tags"])
    learned.score["item_id"][5:] = -1
    found = {name: np.arange(1.0, 1 + len(score)) for name, score in learned.score.items()}
    ranked = ranked_by_saliency(learned, found)
    assert not ranked.score["item_id"][5:].any()
    assert np.array_equal(ranked.score["item_id"][:5], found["item_id"][:5])
    assert np.array_equal(ranked.score["tags"], found["tags"])
    assert ranked.weights is learned.weights


def test_it_tells_useful_ids_from_useless_ones(configure: Configure, tmp_path: Path) -> None:
    """On a log whose truth is known, and better than norms do."""
    from recsys.training.train import train

    generator = {
        "rows": 20_000,
        "history": 0,
        "numeric": 0,
        "main": 1.0,
        "fields": [
            {"name": "user_id", "num_ids": 50},
            {"name": "item_id", "num_ids": 200, "zipf": 0.5, "useless_share": 0.5},
        ],
    }
    data = {"source": "generated", "generator": generator, "user": "user_id", "split": {"by": "random"}}
    features = [{"kind": "categorical", "names": ["user_id", "item_id"]}]
    config = configure({"training.table_lr": 0.05}, data=data, features=features)
    ready = prepare(config.data, config.features, tmp_path / "prepared")
    run = train(config, ready, tmp_path / "runs")
    learned = learned_from(run, ["user_id", "item_id"])
    rows = Rows.load(ready.path, "train")
    found = saliency(full_model(run, learned.weights), with_defaults(learned, rows, 1), rows, 4096)[
        "item_id"
    ][2:]
    fact = truth(config.data.generator)["item_id"]
    useful_of = dict(zip(fact.raw_id.tolist(), fact.useful.tolist(), strict=True))
    (feature,) = (f for f in rows.features.categorical if f.name == "item_id")
    useful = np.array([useful_of[i] for i in feature.ids.tolist()])  # type: ignore[union-attr]
    norm = np.abs(learned.weights["item_id"][2:]).sum(axis=1)

    def ranks(score: np.ndarray) -> float:
        """How often a useful id is above a useless one."""
        return float((score[useful][:, None] > score[~useful]).mean())

    assert ranks(found) > 0.65
    assert ranks(found) > ranks(norm)
    assert torch.is_grad_enabled()
