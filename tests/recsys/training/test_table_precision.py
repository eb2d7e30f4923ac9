"""Tables in fp16 through a run: bytes, resuming, going on from weights and runs, export; what cannot be is refused."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recsys.config import ConfigError, ExperimentConfig
from recsys.planning import plan_of, report_tables
from recsys.serving.export import check, export
from recsys.training.distributed import process_group, shard_model
from recsys.training.loop import make_model
from recsys.training.optimizers import Optimizer
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.distributed.pieces import load_start
from recsys_tables.distributed.sharding import local_shards

RESUME = runpy.run_path(str(Path(__file__).with_name("test_resume.py")))

Configure = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")
FP16 = {"tables.precision": "fp16", "training.epochs": 1, "job.checkpoint.every_steps": 3}


@pytest.fixture(scope="module")
def half(configure: Configure, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(configure(FP16), prepared, tmp_path_factory.mktemp("half"))


def test_a_run_has_half_the_bytes_and_learns_as_well(half: Run, run: Run) -> None:
    assert 2 * half.metrics["bytes"]["parameters"] == run.metrics["bytes"]["parameters"]
    for key in ("optimizer", "vocabulary", "full_table"):
        assert half.metrics["bytes"][key] == run.metrics["bytes"][key]
    first = [of.metrics["history"][0]["train_loss"] for of in (half, run)]
    assert first[0] == pytest.approx(first[1], rel=1e-3)
    assert half.metrics["test"]["auc"] > 0.6


def test_a_run_that_is_interrupted_ends_to_the_bit_as_one_that_was_not(
    configure: Configure, prepared: Prepared, half: Run, tmp_path: Path
) -> None:
    """Only changed rows are saved; that is how a run is carried out, and no other run."""
    config = configure(FP16 | {"job.checkpoint.incremental": True})
    RESUME["interrupted"](config, prepared, tmp_path, 4, 9)
    again = train(config, prepared, tmp_path)
    assert RESUME["same"](again, half)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_artefact_has_the_rows_to_the_bit(half: Run, tmp_path: Path, dtype: Any) -> None:
    made = export(half, tmp_path / "out", dtype)
    rows = Checkpoint(half.path / "checkpoint").tables()
    assert rows.keys() == made.tables.keys()
    assert all(np.array_equal(made.tables[name].dense(), rows[name]) for name in rows)
    assert check(half, tmp_path / "out") == pytest.approx(half.metrics["test"], rel=1e-5)


def test_a_report_counts_two_bytes_a_weight(configure: Configure, prepared: Prepared) -> None:
    config = configure(tables={"scheme": "unified", "embedding_dim": 8, "chunk_dim": 4, "budget": "60%"})
    rows = Rows.load(prepared.path, "train")
    for precision, size in (("fp32", 4), ("fp16", 2)):
        report = report_tables(
            config.replace({"tables.precision": precision}), rows, 2, "auto", "rowwise_adagrad", CPU
        )
        (shared,) = report.shared
        assert shared.bytes.parameters == size * shared.rows * 4 == report.bytes.parameters
        assert sum(rank.parameters for rank in report.ranks) == report.bytes.parameters


def test_a_run_of_another_precision_is_not_gone_on_from(
    configure: Configure, prepared: Prepared, half: Run, tmp_path: Path
) -> None:
    config = configure({"training.start": {"run": str(half.path)}, "training.epochs": 1})
    with pytest.raises(
        CheckpointError, match=r"written with rows in fp16, and here they are in fp32: make `tables\.prec"
    ):
        train(config, prepared, tmp_path)


def test_weights_of_a_file_are_rounded_to_the_nearest(
    configure: Configure, prepared: Prepared, tmp_path: Path
) -> None:
    with process_group():
        config = configure(FP16)
        model = shard_model(make_model(config, prepared.features()), config, CPU)
        (piece,) = [shard for shard in local_shards(model) if shard.table == "item_id/full"]
        weights = torch.randn(piece.weight.shape)
        save_file({"table/item_id/full": weights}, tmp_path / "start.safetensors")
        load_start(tmp_path / "start.safetensors", model)
        assert torch.equal(piece.weight, weights.half())


def test_sweeps_shrink_rows_as_those_of_fp32(configure: Configure, prepared: Prepared) -> None:
    decay = {"training.table_weight_decay": 0.02, "training.table_decay_every": 8, "training.table_lr": 0.1}
    shrunk = {}
    for precision in ("fp32", "fp16"):
        config = configure(decay | {"tables.precision": precision})
        with process_group():
            model = shard_model(make_model(config, prepared.features()), config, CPU)
            optimizer = Optimizer(model, config.training, num_steps=400)
            for _ in range(400):
                optimizer.step()
            shrunk[precision] = {shard.table: shard.weight.float() for shard in local_shards(model)}
    for name, rows in shrunk["fp32"].items():
        large = rows.abs() > 1e-3
        torch.testing.assert_close(shrunk["fp16"][name][large], rows[large], rtol=0.03, atol=0)


def test_sweeps_that_rounding_would_take_back_are_refused(configure: Configure) -> None:
    decay = {"training.table_weight_decay": 0.001, "training.table_lr": 0.1}
    with pytest.raises(ConfigError, match=r"set training\.table_decay_every to 40 or more"):
        configure(FP16 | decay)
    configure(FP16 | decay | {"training.table_decay_every": 40})
    configure(decay)


def test_another_precision_is_another_run_and_the_usual_one_is_not(
    configure: Configure, prepared: Prepared
) -> None:
    plain, usual, half = (
        configure(settings) for settings in ({}, {"tables.precision": "fp32"}, {"tables.precision": "fp16"})
    )
    assert plain.digest(prepared.path) == usual.digest(prepared.path) != half.digest(prepared.path)
    assert plan_of(half, prepared.features()).bytes.parameters > 0
    with pytest.raises(
        ConfigError, match=r"tables\.precision: .*'fp32', 'fp16' or 'bf16'.*did you mean 'bf16'"
    ):
        configure({"tables.precision": "bf61"})
