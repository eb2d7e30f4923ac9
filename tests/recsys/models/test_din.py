"""DIN: attention over jagged histories, Dice, decay once per id, and histories that read their target's table."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from recsys.config import ConfigError, parse_experiment
from recsys.config.models import DINConfig
from recsys.evaluation.metrics import evaluate
from recsys.models import ClickModel, build
from recsys.models.click import ClickBatch
from recsys.models.decay import OncePerId, PerImpression
from recsys.models.dice import Dice
from recsys.models.din import ActivationUnit
from recsys.planning import plan_of
from recsys.serving.scoring import Scorer
from recsys.training.distributed import process_group
from recsys.training.loop import fit, make_model
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables import Full, QuotientRemainder, Shared
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.scheme import describe, difference

D = 4
INTERESTS = [{"target": "item", "history": "seen"}, {"target": "item", "history": "liked"}]
CONFIG = DINConfig(name="din", interests=INTERESTS, hidden=(6, 5), attention_hidden=(3,))
FIELDS = ("user", "item")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small take a hundred times as long on threads that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def jagged(bags: list[Tensor]) -> JaggedTensor:
    return JaggedTensor(torch.cat(bags), lengths=torch.tensor([len(bag) for bag in bags]))


def bags_of(lengths: list[int]) -> list[Tensor]:
    return [torch.randn(length, D, dtype=torch.float64) for length in lengths]


def din(training: bool) -> nn.Module:
    """With parameters and moments away from their first values."""
    torch.manual_seed(1)
    model = build(CONFIG, 2, FIELDS, D).double().train(training)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.uniform_(0.3, 0.7)
        for parameter in model.parameters():
            parameter.uniform_(-0.7, 0.7)
    return model


def dice(x: np.ndarray, layer: Dice) -> np.ndarray:
    """Element by element, of a layer in evaluation."""
    mean, variance, alpha = (v.detach().numpy() for v in (layer.mean, layer.variance, layer.alpha))
    out = np.empty_like(x)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            s = x[row, column]
            p = 1 / (1 + np.exp(-(s - mean[column]) / np.sqrt(variance[column] + 1e-8)))
            out[row, column] = p * s + (1 - p) * alpha[column] * s
    return out


def dense_layers(x: np.ndarray, layers: Any) -> np.ndarray:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            x = dice(x, layer)
    return x


def attended(unit: ActivationUnit, target: np.ndarray, bag: np.ndarray) -> np.ndarray:
    """One sample, one item at a time."""
    total = np.zeros(D)
    for item in bag:
        x = np.concatenate([item, target, item - target, item * target])[None]
        total += dense_layers(x, [*unit.mlp, unit.output])[0, 0] * item
    return total


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(0, 5), max_size=5))
def test_a_unit_sums_a_history_by_its_unnormalised_attention(lengths: list[int]) -> None:
    unit = din(training=False).units[0]
    bags, target = bags_of(lengths), torch.randn(len(lengths), D, dtype=torch.float64)
    found = unit(
        target,
        jagged(bags) if bags else JaggedTensor(torch.empty(0, D).double(), lengths=torch.zeros(0).int()),
    )
    expected = [attended(unit, t.numpy(), bag.numpy()) for t, bag in zip(target, bags, strict=True)]
    assert found.shape == (len(lengths), D)
    for row, want, bag in zip(found.detach().numpy(), expected, bags, strict=True):
        np.testing.assert_allclose(row, want, rtol=1e-10, atol=1e-12)
        assert len(bag) or not row.any(), "an empty history is 0"


def test_din_equals_its_formula_and_passes_gradients() -> None:
    model = din(training=False)
    dense = torch.randn(3, 2, dtype=torch.float64)
    vectors = torch.randn(3, 2, D, dtype=torch.float64, requires_grad=True)
    histories = [[bag.requires_grad_() for bag in bags_of(lengths)] for lengths in ([2, 0, 3], [1, 4, 0])]
    logit = model(dense, vectors, *(jagged(bags) for bags in histories))
    for sample in range(3):
        e = vectors[sample].detach().numpy()
        interests = [
            attended(unit, e[1], bags[sample].detach().numpy())
            for unit, bags in zip(model.units, histories, strict=True)
        ]
        x = np.concatenate([dense[sample].numpy(), e.ravel(), *interests])[None]
        expected = dense_layers(x, [*model.mlp, model.output])[0, 0]
        assert float(logit[sample].detach()) == pytest.approx(expected, rel=1e-10)
    logit.sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad != 0).any(dim=2).all()
    for bag in (bag for bags in histories for bag in bags if len(bag)):
        assert bag.grad is not None
        assert (bag.grad != 0).any(dim=1).all(), "every item of every history is read"
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key


def test_a_sample_does_not_depend_on_the_others_or_their_lengths() -> None:
    """The defect of padded histories: the length of the longest shows in all."""
    model = din(training=False)
    dense, vectors = torch.randn(4, 2).double(), torch.randn(4, 2, D).double()
    seen, liked = bags_of([2, 0, 9, 1]), bags_of([0, 3, 0, 1])
    logit = model(dense, vectors, jagged(seen), jagged(liked))
    order = torch.tensor([3, 1, 0])
    again = model(
        dense[order], vectors[order], jagged([seen[i] for i in order]), jagged([liked[i] for i in order])
    )
    torch.testing.assert_close(again, logit[order])
    for i in range(4):
        alone = model(dense[i : i + 1], vectors[i : i + 1], jagged(seen[i : i + 1]), jagged(liked[i : i + 1]))
        torch.testing.assert_close(alone, logit[i : i + 1])


@pytest.mark.parametrize("lengths", [[0, 0, 0], [1, 0, 0]])
def test_a_training_batch_of_hardly_any_history_has_no_nan(lengths: list[int]) -> None:
    """The variance of one row is 0, that of none is no number: neither may reach the running moments."""
    model = din(training=True)
    unit = model.units[0].mlp[1]
    before = unit.variance.clone()
    bags = jagged(bags_of(lengths))
    logit = model(torch.randn(3, 2).double(), torch.randn(3, 2, D).double(), bags, bags)
    logit.sum().backward()
    assert torch.equal(unit.variance, before)
    for value in [logit, *model.state_dict().values(), *(p.grad for p in model.parameters())]:
        assert bool(torch.isfinite(value).all())


def test_bfloat16_is_near_float32() -> None:
    model = din(training=True).float()
    bags = jagged([bag.float() for bag in bags_of([2, 0, 3])])
    inputs = (torch.randn(3, 2), torch.randn(3, 2, D), bags, bags)
    exact = model(*inputs).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logit = model(*inputs)
    logit.float().sum().backward()
    torch.testing.assert_close(logit.detach().float(), exact, rtol=0.1, atol=0.1)


def test_histories_of_another_width_are_refused() -> None:
    bags = JaggedTensor(torch.zeros(1, 8), lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match="history 'seen' are 8 wide, those of its target 'item' 4"):
        build(CONFIG, 0, FIELDS, D)(torch.zeros(1, 0), torch.zeros(1, 2, D), bags, bags)
    with pytest.raises(ValueError, match=r"target: 'item' is none of the features of ids: user"):
        build(CONFIG, 0, ["user"], D)


def test_dice_in_training_reads_the_moments_of_the_batch_and_keeps_their_running_means() -> None:
    layer = Dice(3).double()
    with torch.no_grad():
        layer.alpha.uniform_(-1, 1)
    x = torch.randn(6, 3, dtype=torch.float64) * 2 + 1
    mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
    p = 1 / (1 + torch.exp(-(x - mean) / torch.sqrt(variance + 1e-8)))
    torch.testing.assert_close(layer(x), p * x + (1 - p) * layer.alpha * x)
    torch.testing.assert_close(layer.mean, 0.1 * mean)
    torch.testing.assert_close(layer.variance, 0.9 + 0.1 * x.var(dim=0))
    layer.eval()
    torch.testing.assert_close(layer(x), torch.from_numpy(dice(x.numpy(), layer)))
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])


def click_model(decay: nn.Module | None) -> ClickModel:
    """Make an engine of plain tables, whose gradients are dense: user, item, and the items seen before."""
    item = Full("item", 9, D)
    fields = [
        Field(Full("user", 5, D)),
        Field(item),
        Field(Shared("seen", item), pooling="none", multivalued=True),
        Field(Full("tags", 4, D), pooling="mean", multivalued=True),
    ]
    config = DINConfig(name="din", interests=INTERESTS[:1], hidden=(6,), attention_hidden=(3,))
    network = build(config, 0, ["user", "item", "tags"], D)
    return ClickModel(EmbeddingEngine(fields), network, ["seen"], decay)


BATCH = {
    "user": [[1], [1], [4]],
    "item": [[7], [2], [7]],
    "seen": [[2, 2, 7], [], [5]],
    "tags": [[1], [], [1, 3]],
}


def batch(model: ClickModel) -> ClickBatch:
    ids = KeyedJaggedTensor.from_lengths_sync(
        list(BATCH),
        torch.tensor([i for bags in BATCH.values() for bag in bags for i in bag]),
        torch.tensor([len(bag) for bags in BATCH.values() for bag in bags]),
    )
    return ClickBatch(torch.zeros(3, 0), model.engine.rows(ids), torch.zeros(3), torch.ones(3), 3)


def table_gradients(model: ClickModel, shrunk: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the weights of each table, and their gradient of λ/2 · weighted mean of `shrunk` for λ = 1."""
    weight = torch.tensor([0.2, 0.5, 0.3])
    (shrunk * weight / 2).sum().backward()
    return {
        name.split("embedding_bags.")[1].split("/")[0]: (table.detach(), table.grad)  # type: ignore[misc]
        for name, table in model.named_parameters()
        if "embedding_bags." in name
    }


def test_decay_once_per_id_is_that_of_the_dense_formula() -> None:
    """w_j / n_j for each row that the batch holds, however often; the mean of a bag of tags is left alone."""
    counts = {"user": {1: 2, 4: 10, 2: 3}, "item": {2: 4, 5: 1, 7: 100, 8: 6}}
    tensors = [(torch.tensor(sorted(n)), torch.tensor([n[j] for j in sorted(n)])) for n in counts.values()]
    model = click_model(OncePerId(list(BATCH), [["user"], ["item", "seen"]], tensors))
    _, shrunk = model(batch(model))
    found = table_gradients(model, shrunk)
    held = {"user": {1, 4}, "item": {2, 5, 7}}
    for feature in ("user", "item"):
        table, gradient = found[feature]
        expected = torch.zeros_like(table)
        for j in held[feature]:
            expected[j] = table[j] / counts[feature][j]
        torch.testing.assert_close(gradient, expected)
    assert found["tags"][1] is None or not found["tags"][1].any()
    total = sum(found[f][0][j].square().sum() / counts[f][j] for f in held for j in held[f])
    torch.testing.assert_close(shrunk.detach(), total.expand(3))


def test_decay_per_impression_counts_every_vector() -> None:
    model = click_model(PerImpression())
    _, shrunk = model(batch(model))
    tables = {
        name.split("embedding_bags.")[1].split("/")[0]: table.detach()
        for name, table in model.named_parameters()
        if "embedding_bags." in name
    }
    for sample in range(3):
        vectors = [tables["user"][i] for i in BATCH["user"][sample]]
        vectors += [tables["item"][i] for key in ("item", "seen") for i in BATCH[key][sample]]
        tags = [tables["tags"][i] for i in BATCH["tags"][sample]]
        vectors += [sum(tags) / len(tags)] if tags else []
        torch.testing.assert_close(shrunk[sample].detach(), sum(v.square().sum() for v in vectors))
    model.eval()
    assert not model(batch(model))[1].any()


def test_a_table_may_grow_under_a_feature_that_reads_it() -> None:
    saved = json.loads(json.dumps(describe(Shared("seen", Full("item", 9, D)))))
    assert saved == {"scheme": "Shared", "feature": "seen", "of": "item"}
    assert difference(saved, Shared("seen", Full("item", 12, D))) is None
    assert "of was 'item', and is 'user' here" in str(difference(saved, Shared("seen", Full("user", 9, D))))


def test_a_shared_scheme_is_served_without_torch() -> None:
    item = QuotientRemainder("item", 9, 3, D)
    tables = {
        table.name: np.random.default_rng(0).normal(size=(table.num_embeddings, D)) for table in item.tables()
    }
    ids = np.array([0, 8, 4])
    assert np.array_equal(lookup(Shared("seen", item), tables, ids), lookup(item, tables, ids))


# ---- from a configuration to a trained run


def interest_log(rows: int = 5000) -> pa.Table:
    """Write a log whose users click what is of the kind of their clicks before; item or user alone say nothing."""
    random = np.random.default_rng(3)
    user, item = random.integers(0, 80, rows), random.integers(0, 30, rows)
    favourite = random.integers(0, 3, 80)[user]
    clicks = random.random(rows) < np.where(item % 3 == favourite, 0.8, 0.1)
    return pa.table(
        {"label": clicks.astype(np.int8), "user_id": user, "item_id": item, "time": np.arange(rows)}
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(interest_log(), path)
    return {
        "name": "interests",
        "data": {
            **{"source": "table", "path": str(path), "user": "user_id", "time": "time"},
            "split": {"by": "time"},
        },
        "features": [
            {"kind": "categorical", "names": ["item_id"]},
            {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"},
            {
                **{"kind": "sequence", "name": "liked", "column": "item_id", "length": 10},
                **{"only_positive": True, "like": "item_id"},
            },
        ],
        "tables": {"scheme": "full", "embedding_dim": 8},
        "model": {
            **{"name": "din", "hidden": [16], "attention_hidden": [8]},
            "interests": [{"target": "item_id", "history": name} for name in ("liked", "seen")],
        },
        "training": {"batch_size": 128, "epochs": 6, "patience": 4, "table_lr": 0.1, "dense_lr": 0.005},
    }


@pytest.fixture(scope="module")
def prepared_log(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    config = parse_experiment(raw, "x")
    return prepare(config.data, config.features, tmp_path_factory.mktemp("prepared"))


def rows_of(prepared: Prepared) -> dict[str, Rows]:
    return {split: Rows.load(prepared.path, split) for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def din_run(raw: dict[str, Any], prepared_log: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(parse_experiment(raw, "x"), prepared_log, tmp_path_factory.mktemp("runs"))


def test_din_finds_what_a_user_likes(din_run: Run) -> None:
    assert din_run.metrics["test"]["auc"] > 0.65
    assert din_run.metrics["test"]["gauc"] > 0.65


def test_a_history_reads_the_table_of_its_target(din_run: Run, prepared_log: Prepared) -> None:
    features = rows_of(prepared_log)["train"].features
    plan = plan_of(din_run.config, features)
    item = next(scheme for scheme in plan.schemes if scheme.feature == "item_id")
    assert plan.schemes == (item, Shared("seen", item), Shared("liked", item))
    assert make_model(din_run.config, features).histories == ("liked", "seen"), "in the network's order"
    assert plan.bytes.parameters == sum(table.parameter_bytes for table in item.tables())
    assert plan.bytes.vocabulary == sum(f.vocabulary_bytes for f in features.categorical)
    own = din_run.config.replace({"model": {"name": "fm"}})
    assert plan_of(own, features).bytes.parameters == 3 * plan.bytes.parameters
    assert plan_of(own, features).full_bytes == plan.full_bytes


def test_a_saved_din_predicts_the_same(din_run: Run, prepared_log: Prepared) -> None:
    test = rows_of(prepared_log)["test"]
    with process_group():
        again = Scorer(din_run).score(test)
    assert np.array_equal(again, din_run.predictions()["prediction"].to_numpy())


def test_decay_by_id_trains_and_shrinks_more_the_rarer_an_id(
    raw: dict[str, Any], prepared_log: Prepared
) -> None:
    rows = rows_of(prepared_log)
    settings = {"model.decay_by": "id", "training.epochs": 1, "training.table_decay": 1.0}
    config = parse_experiment(raw, "x").replace(settings)
    with process_group():
        model = make_model(config, rows["train"].features, rows["train"])
        assert model.decay.groups == [("item_id", "seen", "liked")]
        in_training = np.concatenate([rows["train"].ids_of(name) for name in ("item_id", "seen", "liked")])
        ids, counts = np.unique(in_training, return_counts=True)
        assert np.array_equal(model.decay.ids_0.numpy(), ids)
        assert np.array_equal(model.decay.counts_0.numpy(), counts)
        norms = []
        for decay in (0.0, 100.0):
            fitted = fit(config.replace({"training.table_decay": decay}), rows["train"], rows["validation"])
            predictions = predict(fitted.model, rows["test"], config)
            assert np.isfinite(evaluate(rows["test"].label, predictions)["logloss"])
            (table,) = [p for name, p in fitted.model.named_parameters() if "item_id/full" in name]
            norms.append(float(table.detach()[ids].norm()))
        assert engine_of(fitted.model).tables[0].name == "item_id/full"
    assert norms[1] < 0.5 * norms[0]


@pytest.mark.parametrize(
    ("interest", "message"),
    [
        (
            {"target": "item", "history": "liked"},
            "'item' is no declared feature of ids; did you mean 'item_id'",
        ),
        (
            {"target": "item_id", "history": "xyz"},
            "'xyz' is no declared feature of ids; there are item_id, seen, liked",
        ),
        ({"target": "item_id", "history": "item_id"}, "history 'item_id' must be a `kind: sequence` feature"),
        ({"target": "liked", "history": "liked"}, "the target 'liked' must hold one id a row"),
    ],
)
def test_interests_that_cannot_be_are_refused(raw: dict[str, Any], interest: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_experiment(raw | {"model": {"name": "din", "interests": [interest]}}, "x.yaml")


def test_a_history_of_another_column_or_named_twice_is_refused(raw: dict[str, Any]) -> None:
    item, seen, liked = raw["features"]
    other = {"kind": "categorical", "names": ["user_id"]}
    with pytest.raises(ConfigError, match=r"history 'liked' must be .* with `like: item_id`"):
        parse_experiment(raw | {"features": [item, other, seen, liked | {"like": "user_id"}]}, "x.yaml")
    twice = [{"target": "item_id", "history": "liked"}] * 2
    with pytest.raises(ConfigError, match="histories named twice: liked"):
        parse_experiment(raw | {"model": {"name": "din", "interests": twice}}, "x.yaml")


def test_decay_by_id_is_refused_where_no_worker_sees_the_whole_batch(
    din_run: Run, prepared_log: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c_j counts a whole batch."""
    config = din_run.config.replace({"model.decay_by": "id", "training.table_decay": 0.1})
    rows = rows_of(prepared_log)["train"]
    with process_group():
        monkeypatch.setattr("recsys.training.loop.dist.get_world_size", lambda *_: 2)
        monkeypatch.setattr("recsys.training.loop.shard_model", lambda *_: None)
        with pytest.raises(ValueError, match="take one worker, or decay_by: impression"):
            fit(config, rows, rows)
