"""A checkpoint comes back whole, or is refused with the reason."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.config import ExperimentConfig
from recsys.training import checkpoint
from recsys.training.checkpoint import CheckpointError, load, logical_state, restore, save
from recsys.training.distributed import process_group, shard
from recsys.training.loop import make_model, predict
from recsys.training.run import Run
from recsys_cython_ext import HASH_VERSION
from recsys_pipelines.batches import Rows
from recsys_pipelines.prepare import Prepared

Configure = Callable[..., ExperimentConfig]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture
def file(run: Run) -> Path:
    return run.path / "checkpoint.safetensors"


def fresh(config: ExperimentConfig, rows: Rows) -> Any:
    return shard(make_model(config, rows.features), config.training, torch.device("cpu"))[0]


def test_a_round_trip_gives_identical_predictions(
    run: Run, prepared: Prepared, file: Path, tmp_path: Path
) -> None:
    rows = Rows.load(prepared.path, "test")
    torch.manual_seed(77)
    model = fresh(run.config, rows)
    before = predict(model, rows, run.config)
    state, header = load(file)
    restore(model, state)
    after = predict(model, rows, run.config)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, run.predictions()["prediction"].to_numpy())
    again = logical_state(model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    save(tmp_path / "again.safetensors", again, {"config": header["config"]})
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"], "no temporary file stays"


def test_names_and_header_are_logical(run: Run, prepared: Prepared, file: Path) -> None:
    state, header = load(file)
    tables = {"user_id/full", "item_id/full", "tags/full"}
    assert {name for name in state if not name.startswith("dense/")} == {
        f"{kind}/{table}" for kind in ("table", "optimizer") for table in tables
    }
    assert state["table/item_id/full"].shape == (42, 8)
    assert state["optimizer/item_id/full"].shape == (42,)
    assert header == {
        "format_version": checkpoint.FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "config": run.config.digest(prepared.path),
    }


def test_a_state_is_a_copy(run: Run, prepared: Prepared) -> None:
    rows = Rows.load(prepared.path, "test")
    model = fresh(run.config, rows)
    state = logical_state(model)
    kept = {name: value.clone() for name, value in state.items()}
    restore(model, {name: torch.zeros_like(value) for name, value in state.items()})
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert all(not value.any() for value in logical_state(model).values())


def test_a_flipped_byte_is_refused_wherever_it_is(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    random = np.random.default_rng(0)
    places = [*range(0, header, 29), *random.integers(header, len(content), 40), len(content) - 1]
    damaged = tmp_path / "damaged.safetensors"
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        damaged.write_bytes(changed)
        if (loaded := refused(damaged)) is not None:  # white space of the header means nothing
            assert (loaded[1], place < header) == (load(file)[1], True)
            assert all(torch.equal(value, loaded[0][name]) for name, value in load(file)[0].items())


def refused(path: Path) -> Any:
    """None if `path` is refused by name, else what it holds."""
    try:
        return load(path)
    except CheckpointError as error:
        return None if str(path) in str(error) else error


@pytest.mark.parametrize("length", [0, 4, 8, 100, 2000, -1])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, length: int) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"short.safetensors: not a whole checkpoint of this project"):
        load(short)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match=r"none.safetensors: no such checkpoint"):
        load(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match="not a whole checkpoint of this project"):
        load(foreign)
    with pytest.raises(CheckpointError, match="not a whole checkpoint of this project"):
        load(tmp_path)


@pytest.mark.parametrize("version", ["HASH_VERSION", "FORMAT_VERSION"])
def test_another_version_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(checkpoint, version, 99)
    with pytest.raises(
        CheckpointError, match=rf"{version.lower()} 1, but this program reads 99; train again"
    ):
        load(file)


def test_another_scheme_width_or_model_is_refused(
    file: Path, configure: Configure, prepared: Prepared
) -> None:
    rows = Rows.load(prepared.path, "test")
    state, _ = load(file)
    hashed = configure(tables={"scheme": "hash", "embedding_dim": 8, "budget": "100%"})
    with pytest.raises(
        CheckpointError, match=r"optimizer/item_id/full: the model has no such tensor; .*scheme"
    ):
        restore(fresh(hashed, rows), state)
    with pytest.raises(CheckpointError, match=r"the checkpoint's shape is \(.*\), the model's \(.*\)"):
        restore(fresh(configure({"tables.embedding_dim": 12}), rows), state)
    network = fresh(configure({"model.hidden": [16, 8]}), rows)
    with pytest.raises(CheckpointError, match=r"dense/network\.mlp\.2\.bias: the checkpoint lacks it"):
        restore(network, state)
    untouched = logical_state(network)
    with pytest.raises(CheckpointError):
        restore(network, state)
    assert all(torch.equal(value, untouched[name]) for name, value in logical_state(network).items())


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "pickle.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError):
        load(path)
