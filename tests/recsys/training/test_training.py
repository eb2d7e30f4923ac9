"""Training: the same to the bit, stopped at its best, and doing what each setting says."""

import dataclasses
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torchrec import KeyedJaggedTensor

from recsys.config import ConfigError, ExperimentConfig, parse_experiment
from recsys.config.models import LRConfig
from recsys.evaluation.metrics import auc, evaluate
from recsys.models import LR, ClickModel
from recsys.models.click import ClickBatch
from recsys.models.decay import PerImpression
from recsys.training.distributed import process_group, shard_model
from recsys.training.loop import Fitted, NonFiniteLoss, Watch, fit
from recsys.training.optimizers import Optimizer
from recsys.training.prediction import predict
from recsys.training.run import Run, run_folder
from recsys.training.store import Store
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows, epoch_order
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables import Full
from recsys_tables.distributed.pieces import snapshot
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field

Configure = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module")
def rows(prepared: Prepared) -> dict[str, Rows]:
    return {split: Rows.load(prepared.path, split) for split in ("train", "validation", "test")}


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


def fit_on(
    rows: dict[str, Rows], config: ExperimentConfig, folder: Path | None = None, **changes: Any
) -> Fitted:
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory())) if folder is None else folder
        store = stack.enter_context(Store(root / "checkpoints", config.job.checkpoint, {}))
        return fit(config, dataclasses.replace(rows["train"], **changes), rows["validation"], store)


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return {piece.name: piece.values for piece in snapshot(model)}


def fingerprint(fitted: Fitted, predictions: np.ndarray) -> str:
    digest = hashlib.blake2b(predictions.tobytes(), digest_size=8)
    for name, value in sorted(state_of(fitted.model).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    digest.update(repr(fitted.state.history).encode())
    return digest.hexdigest()


SCRIPT = """
import runpy, sys, yaml
from pathlib import Path
from tempfile import TemporaryDirectory
module = runpy.run_path(sys.argv[1])
from recsys.config import parse_experiment
from recsys.training.distributed import process_group
from recsys_pipelines.batches.loader import Rows
config = parse_experiment(yaml.safe_load(Path(sys.argv[2]).read_text()), "x")
rows = {split: Rows.load(Path(sys.argv[3]), split) for split in ("train", "validation", "test")}
with process_group():
    fitted = module["fit_on"](rows, config)
    print(module["fingerprint"](fitted, module["predict"](fitted.model, rows["test"], config)))
"""


@pytest.mark.parametrize("scheme", ["full", "quotient_remainder", "unified"])
def test_a_seed_decides_weights_predictions_and_metrics_to_the_bit(
    configure: Configure, prepared: Prepared, rows: dict[str, Rows], tmp_path: Path, scheme: str
) -> None:
    tables = {"scheme": scheme, "embedding_dim": 8} | ({} if scheme == "full" else {"budget": "200%"})
    config = configure({"training.epochs": 1}, tables=tables, model={"name": "dcn_v2", "hidden": [16]})
    found = []
    for seed in (0, 0, 1):
        seeded = config.replace({"training.seed": seed})
        fitted = fit_on(rows, seeded)
        found.append(fingerprint(fitted, predict(fitted.model, rows["test"], seeded)))
    assert found[0] == found[1] != found[2]
    if scheme != "unified":
        return
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-P", "-c", SCRIPT, __file__, str(tmp_path / "c.yaml"), str(prepared.path)]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.split()[-1] == found[0]


@pytest.mark.parametrize(
    "model", ["lr", "fm", "fnn", "ipnn", "deepfm", "dcn_v2", "dlrm", "xdeepfm", "autoint", "final_mlp"]
)
def test_every_model_learns(configure: Configure, rows: dict[str, Rows], model: str) -> None:
    hidden = {} if model in ("lr", "fm") else {"hidden": [16]}
    config = configure({"training.patience": 4}, model={"name": model, **hidden})
    fitted = fit_on(rows, config)
    losses = [entry["train_loss"] for entry in fitted.state.history]
    assert losses[-1] < 0.9 * losses[0]
    assert auc(rows["test"].label, predict(fitted.model, rows["test"], config)) > 0.63
    assert fitted.state.rows == 2 * len(rows["train"]) == fitted.state.history[-1]["rows"]
    assert [entry["epoch"] for entry in fitted.state.history] == pytest.approx([0.5, 1, 1.5, 2], abs=0.06)


@pytest.mark.parametrize("monitor", ["auc", "logloss"])
def test_training_stops_early_and_keeps_its_best_evaluation(
    configure: Configure, rows: dict[str, Rows], monitor: Any
) -> None:
    config = configure(
        {
            "training.table_lr": 0.4,
            "training.epochs": 20,
            "training.patience": 3,
            "training.monitor": monitor,
        }
    )
    fitted = fit_on(rows, config)
    scores = [config.training.score({monitor: e[f"validation_{monitor}"]}) for e in fitted.state.history]
    best = int(np.argmax(scores))
    assert len(scores) == best + 1 + 3 < 40, "three worse evaluations end it"
    assert fitted.best[monitor] == fitted.state.history[best][f"validation_{monitor}"]
    validation = rows["validation"]
    again = evaluate(validation.label, predict(fitted.model, validation, config), groups=validation.user)
    assert again == fitted.best, "the model is that of the best evaluation, not of the last"


def test_table_decay_shrinks_the_rows_it_touches(configure: Configure, rows: dict[str, Rows]) -> None:
    """FBGEMM's own weight_decay does nothing without a mode, and on the CPU often nothing with one."""
    norms, untouched = [], []
    for decay in (0.0, 1.0):
        fitted = fit_on(rows, configure({"training.table_decay": decay, "training.epochs": 1}))
        table = state_of(fitted.model)["table/user_id/full"]
        norms.append(float(table[2:].norm()))
        untouched.append(table[0])  # the code of a missing user: there is none
    assert norms[1] < 0.8 * norms[0]
    assert torch.equal(*untouched)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_step_of_the_tables_is_rowwise_adagrad(configure: Configure, decay: float) -> None:
    """Compare with g = dL/dw summed over the batch; a += mean(g²); w -= lr·g / (√a + eps), row by row."""
    engine = EmbeddingEngine([Field(Full("user", 5, 4))], torch.device("meta"))
    network = LR(LRConfig(name="lr"), 0, ["user"], 4)
    config = configure({"training.table_lr": 0.1})
    model = shard_model(ClickModel(engine, network, decay=PerImpression()), config, torch.device("cpu"))
    optimizer = Optimizer(model, config.training, num_steps=2)
    before = state_of(model)["table/user/full"].double().numpy()
    expected, accumulated = before.copy(), np.zeros(5)
    lengths = torch.ones(3, dtype=torch.int32)
    ids = KeyedJaggedTensor.from_lengths_sync(["user"], torch.tensor([1, 3, 3]), lengths)
    batch = ClickBatch(torch.zeros(3, 0), engine.rows(ids), torch.zeros(3), torch.ones(3), 3)
    for _ in range(2):
        optimizer.zero_grad()
        logit, squared_norm = model(batch)  # an id's logit is the mean of its row
        (logit.sum() + decay / 2 * squared_norm.sum()).backward()
        optimizer.step()
        for row, count in ((1, 1), (3, 2)):
            gradient = count * (0.25 + decay * expected[row])
            accumulated[row] += (gradient**2).mean()
            expected[row] -= 0.1 * gradient / (accumulated[row] ** 0.5 + 1e-8)
    state = state_of(model)
    np.testing.assert_allclose(state["table/user/full"].numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["optimizer/user/full/momentum1"].numpy(), accumulated, rtol=1e-5)
    assert np.array_equal(state["table/user/full"].numpy()[[0, 2, 4]], before[[0, 2, 4]].astype(np.float32))


def test_dense_decay_shrinks_the_network(configure: Configure, rows: dict[str, Rows]) -> None:
    norms = [
        float(
            state_of(fit_on(rows, configure({"training.dense_decay": d, "training.epochs": 1})).model)[
                "dense/network.mlp.0.weight"
            ].norm()
        )
        for d in (0.0, 0.1)
    ]
    assert norms[1] < 0.9 * norms[0]


def test_rows_of_weight_zero_are_not_learnt(configure: Configure, rows: dict[str, Rows]) -> None:
    """Half of the rows carry the opposite label: with weight 0 they do no harm, with weight 1 they undo it all."""
    train_rows, test = rows["train"], rows["test"]
    wrong = np.arange(len(train_rows)) % 2 == 0
    label = np.where(wrong, 1 - train_rows.label, train_rows.label).astype(np.float32)
    found = []
    for weight in (np.ones(len(label)), np.where(wrong, 0, 3.0)):
        fitted = fit_on(rows, configure(), label=label, weight=weight.astype(np.float32))
        found.append(auc(test.label, predict(fitted.model, test, configure())))
    assert found[0] < 0.62
    assert found[1] > 0.75


def test_a_batch_without_weight_is_no_nan(configure: Configure, rows: dict[str, Rows]) -> None:
    config = configure({"training.batch_size": 64, "training.epochs": 1})
    weight = np.ones(len(rows["train"]), np.float32)
    for index in list(epoch_order(len(weight), 64, 0, 0))[-3:]:
        weight[index] = 0
    assert np.isfinite(fit_on(rows, config, weight=weight).state.history[-1]["train_loss"])


@pytest.mark.parametrize("seed", [0, 3])
def test_negative_sampling_is_undone_in_the_predictions(
    configure: Configure, rows: dict[str, Rows], seed: int
) -> None:
    """Seeds of the split (at random, seed 0) and of training may be equal: their draws must not be."""
    config = configure({"training.negative_rate": 0.2, "training.seed": seed, "training.epochs": 3})
    train_rows = rows["train"]
    negatives = int((train_rows.label == 0).sum())
    kept = train_rows.keep_negatives(0.2, seed)
    assert int(train_rows.label[kept].sum()) == int(train_rows.label.sum())
    share = (len(kept) - train_rows.label.sum()) / negatives
    assert share == pytest.approx(0.2, abs=4 * (0.16 / negatives) ** 0.5)
    fitted = fit_on(rows, config)
    predictions = predict(fitted.model, train_rows, config)
    assert evaluate(train_rows.label, predictions)["calibration"] == pytest.approx(1, abs=0.12)
    assert auc(rows["test"].label, predict(fitted.model, rows["test"], config)) > 0.75


def test_no_row_left_to_train_on(configure: Configure, rows: dict[str, Rows]) -> None:
    config = configure({"training.negative_rate": 1e-9})
    with pytest.raises(ValueError, match="negative_rate 1e-09 leaves no row to train on"):
        fit_on(rows, config, label=np.zeros(len(rows["train"]), np.float32))


def test_a_loss_that_is_no_number_names_its_batch_and_writes_it_out(
    configure: Configure, rows: dict[str, Rows], tmp_path: Path
) -> None:
    table = rows["train"].table
    x = table["x"].to_numpy().copy()
    x[epoch_order_of(rows, 2)[0]] = np.nan
    table = table.set_column(table.column_names.index("x"), "x", pa.array(x, from_pandas=False))
    with pytest.raises(
        NonFiniteLoss, match=r"epoch 0, batch 2: the training loss is nan; lower .*nonfinite-rank-0"
    ) as e:
        fit_on(rows, configure(), tmp_path, table=table)
    written = pq.read_table(str(e.value).rpartition(" ")[2])
    assert written["row_id"].to_pylist() == table["row_id"].take(epoch_order_of(rows, 2)).to_pylist()


def test_a_batch_whose_loss_is_no_number_can_be_left_out(configure: Configure, rows: dict[str, Rows]) -> None:
    table = rows["train"].table
    x = table["x"].to_numpy().copy()
    x[epoch_order_of(rows, 2)[0]] = np.nan
    table = table.set_column(table.column_names.index("x"), "x", pa.array(x, from_pandas=False))
    warned: list[str] = []
    config = configure({"training.on_nonfinite": "skip", "training.epochs": 1})
    fitted = fit(
        config,
        dataclasses.replace(rows["train"], table=table),
        rows["validation"],
        watch=Watch(warn=warned.append),
    )
    assert fitted.state.skipped == 1
    assert warned == ["epoch 0, batch 2: left out, for its loss is nan"]
    assert all(torch.isfinite(value).all() for value in state_of(fitted.model).values())


def epoch_order_of(rows: dict[str, Rows], step: int) -> np.ndarray:
    return list(epoch_order(len(rows["train"]), 256, 0, 0))[step]


def test_predictions_do_not_depend_on_the_batch(configure: Configure, rows: dict[str, Rows]) -> None:
    config = configure({"training.epochs": 1})
    fitted = fit_on(rows, config)
    whole = predict(fitted.model, rows["test"], config)
    parts = predict(fitted.model, rows["test"], config.replace({"evaluation.batch_size": 7}))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


# ---- run folders


def test_a_run_folder_holds_all_of_a_run(run: Run, prepared: Prepared, configure: Configure) -> None:
    events = [path.name for path in run.path.iterdir() if path.name.startswith("events.out.tfevents.")]
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml",
        "features",
        "checkpoint",
        "sharding.json",
        "predictions.parquet",
        "metrics.json",
        *events,
    }
    assert len(events) == 1
    assert run.path.name == "seed-0"
    assert (
        run.config
        == configure()
        == parse_experiment(yaml.safe_load((run.path / "config.yaml").read_text()), "x")
    )
    assert set(run.metrics) == {
        *("bytes", "validation", "test", "best_possible", "fields", "history", "prepared"),
        *("training_seconds", "rows_per_second", "process_peak_memory_bytes", "memory_by_rank", "ranks"),
        "skipped_batches",
    }
    assert run.metrics["bytes"]["total"] < run.metrics["bytes"]["full_table"], "width 8 of 16"
    assert set(run.metrics["fields"]) == {"user_id", "item_id", "tags"}
    assert run.metrics["fields"]["user_id"]["collisions_any_row"] == 0
    assert Path(run.metrics["prepared"]) == prepared.path.resolve()


def test_test_predictions_carry_row_ids_and_metrics(run: Run, rows: dict[str, Rows]) -> None:
    table = run.predictions()
    assert table.column_names == ["row_id", "label", "prediction", "user_id"]
    assert table["row_id"].to_pylist() == rows["test"].row_id.tolist()
    measured = evaluate(
        table["label"].to_numpy(), table["prediction"].to_numpy(), groups=table["user_id"].to_numpy()
    )
    assert measured == run.metrics["test"]
    assert measured["auc"] > 0.75


def test_tensorboard_can_read_the_curves(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("validation_logloss")]
    assert [step for step, _ in curve] == [entry["rows"] for entry in run.metrics["history"]]
    assert curve[0][1] == pytest.approx(run.metrics["history"][0]["validation_logloss"])


def test_a_finished_run_is_not_trained_again_and_an_unfinished_one_is(
    run: Run, configure: Configure, prepared: Prepared, runs: Path, tmp_path: Path
) -> None:
    def never(entry: dict[str, Any]) -> None:
        raise AssertionError("trained again")

    before = (run.path / "metrics.json").stat().st_mtime_ns
    assert train(configure(), prepared, runs, Watch(report=never)).path == run.path
    assert (run.path / "metrics.json").stat().st_mtime_ns == before
    seeded = configure({"training.seed": 5, "training.epochs": 1})
    folder = run_folder(seeded, prepared, tmp_path)
    assert folder.name == "seed-5"
    assert folder.parent == run_folder(seeded.replace({"training.seed": 6}), prepared, tmp_path).parent
    folder.mkdir(parents=True)
    (folder / "left.over").touch()
    with pytest.raises(ConfigError, match="not a finished run"):
        Run.open(folder)
    reported: list[dict[str, Any]] = []
    again = train(seeded, prepared, tmp_path, Watch(report=reported.append))
    told = again.metrics["history"]
    assert [{key: entry[key] for key in told[0]} for entry in reported] == told
    assert not (folder / "left.over").exists()


def test_a_generated_log_knows_its_best_and_may_have_lists_that_stay_empty(tmp_path: Path) -> None:
    """A history holds clicks of earlier blocks of 4,096 rows: a short log has none in training."""
    fields = [{"name": "user_id", "num_ids": 50}, {"name": "item_id", "num_ids": 50}]
    raw = {
        "name": "short",
        "data": {
            "source": "generated",
            "generator": {"rows": 2000, "fields": fields},
            "truth": "true_probability",
            "user": "user_id",
        },
        "features": [
            {"kind": "categorical", "names": ["user_id", "item_id"]},
            {"kind": "categorical", "names": ["history"], "multivalued": True},
        ],
        "tables": {"scheme": "full", "embedding_dim": 4},
        "model": {"name": "lr"},
        "training": {"batch_size": 128, "epochs": 1},
    }
    config = parse_experiment(raw, "x")
    found = train(config, prepare(config.data, config.features, tmp_path / "p"), tmp_path / "r")
    assert found.metrics["fields"]["history"]["ids"] == 0
    best = found.metrics["best_possible"]
    assert best["auc"] > found.metrics["test"]["auc"]
    assert best["gauc"] is not None, "measured as the model is"
    assert "truth" in pq.read_schema(found.path / "predictions.parquet").names


def test_a_trace_is_written_or_why_not_is_said(
    configure: Configure, prepared: Prepared, tmp_path: Path
) -> None:
    warned: list[str] = []
    watch = Watch(warn=warned.append)
    short = configure({"training.batch_size": 1024, "training.epochs": 1})  # 5 batches
    train(short, prepared, tmp_path, watch, profile=True)
    assert [text for text in warned if "trace.json.gz: no trace, for fewer than 8 batches" in text] == warned
    warned.clear()
    path = train(configure(), prepared, tmp_path, watch, profile=True).path
    with gzip.open(path / "trace.json.gz", "rt") as trace:
        assert json.load(trace)["traceEvents"]
    train(configure(), prepared, tmp_path, watch, profile=True)
    assert warned == [], "there is one"
    (path / "trace.json.gz").unlink()
    train(configure(), prepared, tmp_path, watch)
    assert warned == [], "none was asked for"
    train(configure(), prepared, tmp_path, watch, profile=True)
    assert [text for text in warned if "no trace, for this run is finished" in text] == warned != []
