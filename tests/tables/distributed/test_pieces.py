"""Inherited weights: any number of ranks takes its own parts of one file, and a file that does not fit changes nothing."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables import Full
from recsys_tables.distributed.pieces import load_start, pieces
from recsys_tables.distributed.sharding import TableOptimizer, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field

SHAPES = {
    "table/a/full": (11, 8),
    "table/b/full": (9, 16),
    "dense/top.weight": (1, 24),
    "dense/top.bias": (1,),
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        fields = [Field(Full("a", 11, 8)), Field(Full("b", 9, 16))]
        self.engine = EmbeddingEngine(fields, torch.device("meta"))
        self.top = nn.Linear(24, 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        return self.top(self.engine(ids).values())


def make(sharding: Any) -> Any:
    torch.manual_seed(0)
    return shard(Model(), TableOptimizer("sgd"), torch.device("cpu"), 0, sharding)


def values() -> dict[str, Tensor]:
    random = np.random.default_rng(0)
    return {name: torch.from_numpy(random.random(shape, np.float32)) for name, shape in SHAPES.items()}


def copies_of(model: Any) -> list[Tensor]:
    return [piece.values.clone() for piece in pieces(model)]


def on_ranks(folder: Path, in_ranks: Callable[..., None]) -> None:
    in_ranks(2, take, folder)


def take(rank: int, folder: Path) -> None:
    """Load into every kind of shards; with a file that one rank cannot read, none changes."""
    expected = values()
    kinds = set()
    for sharding in ("table_wise", "row_wise", "column_wise"):
        model = make(sharding)
        load_start(folder / "start.safetensors", model)
        for piece in pieces(model):
            rows, *columns = (
                slice(first, first + size)
                for first, size in zip(
                    (piece.first_row, piece.first_column), piece.values.shape, strict=False
                )
            )
            assert torch.equal(piece.values, expected[piece.name][rows, *columns]), (sharding, piece)
            kinds |= {
                name for name, first in (("row", piece.first_row), ("column", piece.first_column)) if first
            }
    before = copies_of(model)
    lost = folder / ("start.safetensors" if rank == 0 else "lost.safetensors")
    try:
        load_start(lost, model)
        why = "nothing"
    except ValueError as error:
        why = str(error)
    assert all(torch.equal(a, b) for a, b in zip(copies_of(model), before, strict=True))
    (folder / f"{rank}.json").write_text(json.dumps([why, sorted(kinds)]))


def test_ranks_take_what_overlaps_their_shards(tmp_path: Path, run_ranks: Any) -> None:
    save_file(values(), tmp_path / "start.safetensors")
    run_ranks(__file__, "on_ranks", tmp_path)
    refusals = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert {kind for _, kinds in refusals for kind in kinds} == {"row", "column"}
    for why, _ in refusals:
        assert "lost.safetensors: no safetensors file to start from" in why


@pytest.fixture
def model() -> Iterator[Any]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield make("table_wise")
    dist.destroy_process_group()


def test_what_the_file_lacks_stays(model: Any, tmp_path: Path) -> None:
    taken = ("table/b/full", "dense/top.bias")
    save_file({name: values()[name] for name in taken}, tmp_path / "some.safetensors")
    before = {piece.name: piece.values.clone() for piece in pieces(model)}
    load_start(tmp_path / "some.safetensors", model)
    for piece in pieces(model):
        assert torch.equal(piece.values, (values() if piece.name in taken else before)[piece.name])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("table/a/full", (11, 4), r"table/a/full: its shape is \[11, 4\], the model's \[11, 8\]"),
        ("table/b/full", (10, 16), r"table/b/full: its shape is \[10, 16\], the model's \[9, 16\]"),
        ("dense/top.bias", (2,), r"dense/top\.bias: its shape is \[2\], the model's \[1\]"),
        (
            "table/c/full",
            (1, 4),
            r"table/c/full \[1, 4\]: the model has no such tensor; it has dense/top\.bias, .*table/b/full$",
        ),
        ("optimizer/a/full/momentum1", (11,), r"optimizer/a/full/momentum1 \[11\]: the model has no such"),
        ("a/full", (11, 8), r"a/full \[11, 8\]: the model has no such tensor"),
    ],
)
def test_a_tensor_that_does_not_fit_changes_nothing(
    model: Any, tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    file = tmp_path / "other.safetensors"
    save_file(values() | {name: torch.zeros(shape)}, file)
    before = copies_of(model)
    with pytest.raises(ValueError, match=rf"{file}: {message}"):
        load_start(file, model)
    assert all(torch.equal(a, b) for a, b in zip(copies_of(model), before, strict=True))


def test_a_file_of_something_else_is_named(model: Any, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not at all")
    for name in ("x", "none"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors: no safetensors file to start from"):
            load_start(tmp_path / f"{name}.safetensors", model)
