"""FBGEMM's module with our kernel: the same vectors, rows and states as FBGEMM's own, and Adam, which it lacks on a CPU."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from recsys_tables import Full, Scheme, Unified
from recsys_tables.bytes import OptimizerName
from recsys_tables.config import Sharding, TableKernelName
from recsys_tables.distributed.changes import Baseline
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.kernel_tables import fbgemm_modules
from recsys_tables.distributed.pieces import pieces
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import TableOptimizer, local_shards, shard
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.scheme import Precision

CPU, META = torch.device("cpu"), torch.device("meta")
SCHEMES = (Full("a", 50, 16), Unified("b", 31, 8, 4), Unified("c", 31, 8, 4))


def made(
    *schemes: Scheme,
    optimizer: OptimizerName = "rowwise_adagrad",
    kernel: TableKernelName = "recsys",
    precision: Precision = "fp32",
    sharding: Sharding = "table_wise",
    seed: int = 0,
    weighted: bool = False,
) -> Any:
    fields = [Field(s, multivalued=True, weighted=weighted) for s in schemes]
    engine = EmbeddingEngine(fields, META, precision)
    rule = TableOptimizer(optimizer, lr=0.1)
    return shard(nn.ModuleList([engine]), rule, CPU, seed, sharding, table_kernel=kernel)


def batch(
    schemes: tuple[Scheme, ...], step: int, size: int = 12, weighted: bool = False
) -> KeyedJaggedTensor:
    random = np.random.default_rng(step)
    lengths = torch.from_numpy(random.integers(0, 4, len(schemes) * size))
    total = int(lengths.sum())
    return KeyedJaggedTensor(
        [s.feature for s in schemes],
        torch.from_numpy(random.integers(0, 30, total)),
        torch.from_numpy(random.random(total, np.float32)) if weighted else None,
        lengths=lengths,
    )


def train(
    model: Any, schemes: tuple[Scheme, ...], steps: range, weighted: bool = False
) -> list[torch.Tensor]:
    outs = []
    for step in steps:
        out = model.module[0](batch(schemes, step, weighted=weighted)).values()
        outs.append(out.detach().clone())
        (out.square() + out).sum().backward()
    return outs


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad", "adagrad"])
def test_training_is_that_of_fbgemm(group: None, optimizer: OptimizerName, weighted: bool) -> None:
    ours, theirs = (
        made(*SCHEMES, optimizer=optimizer, kernel=kernel, weighted=weighted)
        for kernel in ("recsys", "fbgemm")
    )
    for mine, other in zip(
        *(train(model, SCHEMES, range(5), weighted) for model in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    for mine, other in zip(local_shards(ours), local_shards(theirs), strict=True):
        assert mine.table == other.table
        torch.testing.assert_close(mine.weight, other.weight, rtol=1e-5, atol=1e-5)
        assert mine.states.keys() == other.states.keys()
        for name, values in mine.states.items():
            torch.testing.assert_close(values, other.states[name], rtol=1e-5, atol=1e-5)


def test_adam_is_that_of_torch_where_every_row_occurs_in_every_batch(group: None) -> None:
    scheme = Full("a", 20, 8)
    model = made(scheme, optimizer="adam")
    (piece,) = local_shards(model)
    weight = piece.weight.clone().requires_grad_()
    reference = torch.optim.Adam([weight], lr=0.1, eps=1e-8)
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        order = torch.randperm(20, generator=random)
        ids = KeyedJaggedTensor(["a"], order, lengths=torch.ones(20, dtype=torch.int64))
        probe = torch.randn(20, 8, generator=random)
        (model.module[0](ids).values() * probe).sum().backward()
        weight.grad = torch.zeros_like(weight).index_add_(0, order, probe)
        reference.step()
    torch.testing.assert_close(piece.weight, weight.detach(), rtol=1e-6, atol=1e-6)
    state = reference.state[weight]
    torch.testing.assert_close(piece.states["momentum1"], state["exp_avg"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(piece.states["exp_avg_sq"], state["exp_avg_sq"], rtol=1e-5, atol=1e-6)
    assert piece.states["row_counter"].tolist() == [30.0] * 20


def test_adams_bias_correction_counts_the_updates_of_a_row(group: None) -> None:
    """A row that is first seen in a late batch is moved by a whole step, as by Adam's first."""
    model = made(Full("a", 20, 8), optimizer="adam")
    (piece,) = local_shards(model)
    before = piece.weight.clone()
    for row in [3] * 10 + [5]:
        ids = KeyedJaggedTensor(["a"], torch.tensor([row]), lengths=torch.ones(1, dtype=torch.int64))
        model.module[0](ids).values().sum().backward()
    torch.testing.assert_close(before[5] - piece.weight[5], torch.full((8,), 0.1))
    assert piece.states["row_counter"].tolist() == [0.0] * 3 + [10.0, 0.0, 1.0] + [0.0] * 14
    assert torch.equal(piece.weight[7], before[7])


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rowwise_adagrad", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_training_goes_on_from_a_checkpoint_to_the_bit(
    group: None, tmp_path: Path, optimizer: OptimizerName, precision: Precision
) -> None:
    whole, first, again = (
        made(*SCHEMES, optimizer=optimizer, precision=precision, seed=seed) for seed in (4, 4, 5)
    )
    train(whole, SCHEMES, range(6))
    train(first, SCHEMES, range(3))
    baseline = Baseline()
    save(tmp_path / "full", first, {}, since=baseline)
    save(tmp_path / "saved", first, {}, since=baseline)
    Checkpoint(tmp_path / "saved").load_into(again)
    for tables in tables_of(again):  # what the training loop does
        tables.seed = 4
        tables.iter_cpu.fill_(3)
    train(again, SCHEMES, range(3, 6))
    for one, other in zip(pieces(whole), pieces(again), strict=True):
        assert one.name == other.name
        assert torch.equal(one.values, other.values), one.name
    assert Checkpoint(tmp_path / "saved").tables()["a/full"].dtype == np.float32


def tables_of(model: Any) -> list[Any]:
    return fbgemm_modules(engine_of(model))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_the_bytes_train_nearly_as_fp32_does(group: None, precision: Precision) -> None:
    model, reference = (made(*SCHEMES, precision=p) for p in (precision, "fp32"))
    train(model, SCHEMES, range(20))
    train(reference, SCHEMES, range(20))
    for one, other in zip(local_shards(model), local_shards(reference), strict=True):
        assert 2 * one.weight.nbytes == other.weight.nbytes
        assert one.states["momentum1"].dtype == torch.float32
        torch.testing.assert_close(
            one.weight.float(), other.weight, rtol=0, atol=0.03 if precision == "bf16" else 0.005
        )


@pytest.mark.parametrize("size", [12, 40_000])  # of which outputs are below and above a huge page
def test_evaluation_moves_nothing_and_vectors_that_are_held_stay(group: None, size: int) -> None:
    model = made(*SCHEMES)
    before = [piece.weight.clone() for piece in local_shards(model)]
    with torch.no_grad():
        first = model.module[0](batch(SCHEMES, 0, size)).values()
        copy = first.clone()
        model.module[0](batch(SCHEMES, 1, size))
        model.module[0](batch(SCHEMES, 2, size))
    assert torch.equal(first, copy), "their memory was used again"
    assert all(torch.equal(a, b.weight) for a, b in zip(before, local_shards(model), strict=True))


def test_memory_is_used_again_once_no_vector_is_held(group: None) -> None:
    (tables, *_) = tables_of(made(Full("a", 50, 16)))
    rows, offsets = torch.zeros(40_000, dtype=torch.int64), torch.arange(40_001)
    first = tables(rows, offsets)
    place, part = first.data_ptr(), first[5:7]
    assert tables(rows, offsets).data_ptr() != place
    del first
    assert tables(rows, offsets).data_ptr() != place, "a part of it is held"
    del part
    gc.collect()
    assert place in {tables(rows, offsets).data_ptr() for _ in range(3)}


def test_two_forward_passes_before_a_backward_pass_are_those_of_fbgemm(group: None) -> None:
    ours, theirs = (
        made(Full("a", 50, 16), optimizer="sgd", kernel=kernel) for kernel in ("recsys", "fbgemm")
    )
    for model in (ours, theirs):
        first, second = (model.module[0](batch(SCHEMES[:1], step, 40_000)).values() for step in (0, 1))
        ((first.square() + second.square()).sum() / 1e4).backward()
    (mine,), (other,) = local_shards(ours), local_shards(theirs)
    torch.testing.assert_close(mine.weight, other.weight, rtol=1e-4, atol=1e-4)


def test_a_batch_without_bags_changes_nothing(group: None) -> None:
    (tables, *_) = tables_of(made(Full("a", 50, 16)))
    before = tables.weights_host.detach().clone()
    tables(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).sum().backward()
    assert torch.equal(tables.weights_host, before)


def test_bf16_needs_the_kernel(group: None) -> None:
    with pytest.raises(ValueError, match="FBGEMM trains no tables in bf16: use the kernel 'recsys'"):
        made(*SCHEMES, precision="bf16", kernel="fbgemm")


def test_adam_on_a_cpu_needs_the_kernel(group: None) -> None:
    with pytest.raises(
        ValueError, match="FBGEMM has no fused Adam for tables on a CPU: use the kernel 'recsys'"
    ):
        made(*SCHEMES, optimizer="adam", kernel="fbgemm")


def test_a_row_outside_its_table_is_named(group: None) -> None:
    (tables, *_) = tables_of(made(Full("a", 50, 16)))
    with pytest.raises(
        ValueError, match="table 'a/full': index 1 of the batch is row 50, and it has 50 rows"
    ):
        tables(torch.tensor([3, 50]), torch.tensor([0, 1, 2]))


def test_what_only_fbgemm_has_is_refused(group: None) -> None:
    (tables, *_) = tables_of(made(Full("a", 50, 16)))
    rows, offsets = torch.tensor([3]), torch.tensor([0, 1])
    with pytest.raises(
        ValueError, match=r"has no batch_size_per_feature_per_rank: set job\.table_kernel to fbgemm"
    ):
        tables(rows, offsets, batch_size_per_feature_per_rank=[[1]])
    with pytest.raises(ValueError, match="has no gradients of per_sample_weights"):
        tables(rows, offsets, torch.ones(1, requires_grad=True))


# ---- ranks


def ranks(folder: Path, in_ranks: Callable[..., list[int]]) -> None:
    in_ranks(1, trained, folder, 1, "table_wise")
    for sharding in ("row_wise", "column_wise"):
        in_ranks(2, trained, folder, 2, sharding)


def trained(rank: int, folder: Path, world_size: int, sharding: Sharding) -> None:
    """Train by Adam on this rank's part of each batch: of 7 samples, so that the parts are uneven."""
    model = made(*SCHEMES, optimizer="adam", sharding=sharding)
    for step in range(6):
        whole = batch(SCHEMES, step, size=7)
        mine = slice(0, 7) if world_size == 1 else (slice(0, 4), slice(4, 7))[rank]
        bags = {key: jagged.to_dense()[mine] for key, jagged in whole.to_dict().items()}
        ids = KeyedJaggedTensor(
            list(bags),
            torch.cat([bag for of_key in bags.values() for bag in of_key]),
            lengths=torch.tensor([len(bag) for of_key in bags.values() for bag in of_key]),
        )
        model.module[0](ids).values().square().sum().mul(world_size).backward()  # ranks average
    save(folder / f"{sharding}-{world_size}", model, {})


def test_adam_on_two_ranks_is_that_of_one(tmp_path: Path, run_ranks: Any) -> None:
    run_ranks(__file__, "ranks", tmp_path)
    one = Checkpoint(tmp_path / "table_wise-1")
    assert any("row_counter" in name for name in one.names)
    for sharding in ("row_wise", "column_wise"):
        two = Checkpoint(tmp_path / f"{sharding}-2")
        assert two.names == one.names
        for name in one.names:
            torch.testing.assert_close(two.read(name), one.read(name), rtol=1e-4, atol=1e-6, msg=name)
