"""Rows in half the bytes: looked up and trained like fp32 ones that are rounded, counted as half, and kept to the bit."""

import dataclasses
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_tables import FeatureSize, Full, Hash, Scheme, Unified, plan_tables, resident_bytes
from recsys_tables.bytes import row_bytes
from recsys_tables.distributed.changes import Baseline
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.kernel_tables import fbgemm_modules
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.distributed.pieces import pieces, snapshot
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import TableOptimizer, local_shards, placements, shard
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.scheme import Precision, unique_tables
from recsys_tables.schemes.full import FullTables
from recsys_tables.schemes.opt_embed import OptEmbedTables
from recsys_tables.schemes.tensor_train import TensorTrainTables
from recsys_tables.schemes.unified import UnifiedTables

CONFORMANCE = runpy.run_path(str(Path(__file__).with_name("schemes") / "test_conformance.py"))
KINDS, SCHEMES = CONFORMANCE["KINDS"], CONFORMANCE["SCHEMES"]
LOOKED_UP = (  # all ways to read rows: whole, summed, multiplied, with signs, in slots, beside parameters, not at all
    "full",
    "compact",
    "multi_hash",
    "qr_product",
    "unified",
    "frequency_split",
    "hash_embedding",
    "path_based",
    "robe_quarter",
    "tensor_train",
    "mem_com",
)
CPU, META = torch.device("cpu"), torch.device("meta")
ULP = 2**-11  # half the distance of numbers in fp16, at most, as a share of them


def made(
    *schemes: Scheme,
    precision: Precision = "fp16",
    optimizer: Any = "rowwise_adagrad",
    sharding: Any = "table_wise",
    seed: int = 0,
) -> Any:
    engine = EmbeddingEngine([Field(scheme) for scheme in schemes], META, precision)
    return shard(engine, TableOptimizer(optimizer, lr=0.1), CPU, seed, sharding)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_vectors_and_updates_are_those_of_a_dense_oracle(group: None, name: str) -> None:
    """Of fields of every kind, after a step of rowwise Adagrad: only the new rows are rounded, to a neighbour."""
    scheme = SCHEMES[name]
    fields = [Field(dataclasses.replace(scheme, feature=kind), **options) for kind, options in KINDS.items()]
    bags = {f.feature: CONFORMANCE["BAGS" if f.multivalued else "ONES"] for f in fields}
    factors = {
        f.feature: [[1.5 if f.weighted else 1.0] * len(bag) for bag in bags[f.feature]] for f in fields
    }
    torch.manual_seed(1)
    model = shard(EmbeddingEngine(fields, META, "fp16"), TableOptimizer(lr=0.5), CPU, 0, "table_wise")
    model.eval()
    tables = {}
    for piece in local_shards(model):
        assert piece.weight.dtype == torch.float16
        piece.weight.normal_()
        tables[piece.table] = piece.weight.double().requires_grad_()
    dense = {key: p.detach().double() for key, p in model.named_parameters() if "combines" in key}

    out = model(CONFORMANCE["kjt_of"](fields, bags, factors))
    total, expected_total = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    for position, field in enumerate(fields):
        prefix = f"combines.{position}."
        of_field = {key.split(prefix)[1]: p for key, p in dense.items() if prefix in key}
        kind = field.feature
        expected = CONFORMANCE["oracle"](field, tables, of_field, bags[kind], factors[kind])
        vectors = out.sequences[kind].values() if field.pooling == "none" else out[kind]
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
        probe = torch.randn(vectors.shape)
        total = total + (vectors * probe).sum()
        expected_total = expected_total + (expected * probe).sum()
    total.backward()
    expected_total.backward()
    for piece in local_shards(model):
        was = tables[piece.table]
        assert was.grad is not None
        root = was.grad.square().mean(dim=1, keepdim=True).sqrt()
        expected = was.detach() - 0.5 * was.grad / (root + 1e-8)
        torch.testing.assert_close(piece.weight.double(), expected, rtol=2.1 * ULP, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_the_optimisers_state_is_fp32(group: None, optimizer: Any) -> None:
    """Gradients of 1e-5 are squared to 1e-10, which fp16 could not hold."""
    model = made(Full("a", 20, 8), optimizer=optimizer)
    (1e-5 * model(batch(["a"])).values()).sum().backward()
    (piece,) = local_shards(model)
    (state,) = piece.states.values()
    assert state.dtype == torch.float32
    assert state.max() > 0


def batch(features: list[str], rank: int = 0, world_size: int = 1, step: int = 0) -> Any:
    ids = np.random.default_rng(step).integers(0, 20, (len(features), 8))
    of_rank = np.array_split(ids, world_size, axis=1)[rank]
    bags = {name: [[int(i)] for i in column] for name, column in zip(features, of_rank, strict=True)}
    return CONFORMANCE["kjt_of"]([Field(Full(name, 20, 8)) for name in features], bags, {})


def test_first_values_are_those_of_fp32_rounded(group: None) -> None:
    scheme = Full("a", 1000, 8, init_bound=0.01)
    (fp16,), (fp32,) = (local_shards(made(scheme, precision=p)) for p in ("fp16", "fp32"))
    assert torch.equal(fp16.weight, fp32.weight.half())


def test_an_engine_that_is_not_sharded_is_refused() -> None:
    with pytest.raises(ValueError, match="tables in fp16 are trained by the kernels of sharded ones only"):
        EmbeddingEngine([Field(Full("a", 20, 8))], CPU, "fp16")


# ---- bytes


def test_a_weight_is_two_bytes_and_the_state_stays() -> None:
    schemes = [Full("a", 100, 8), Unified("b", 50, 8, 4), Unified("c", 50, 8, 4)]
    fp32, fp16 = (resident_bytes(schemes, 7, "adagrad", precision=p) for p in ("fp32", "fp16"))
    assert 2 * fp16.parameters == fp32.parameters == 4 * (100 * 8 + 50 * 4)
    assert fp16.optimizer == fp32.optimizer
    assert row_bytes(8, "rowwise_adagrad", "fp16") == 2 * 8 + 4
    assert sum(t.parameter_bytes for t in unique_tables(schemes, "fp16")) == fp16.parameters


SIZES = [FeatureSize("user", 20_002, 20_002, 0, 0), FeatureSize("item", 3_002, 3_002, 0, 0)]


def test_a_budget_holds_more_rows_and_what_it_is_a_share_of_stays() -> None:
    plans = [
        plan_tables(UnifiedTables(scheme="unified", budget="10%", precision=p), SIZES)
        for p in ("fp32", "fp16")
    ]
    assert plans[0].full_bytes == plans[1].full_bytes
    assert all(0.999 * plan.full_bytes < 10 * plan.bytes.total <= plan.full_bytes for plan in plans)
    rows: list[Any] = [plan.schemes[0].num_embeddings for plan in plans]  # type: ignore[attr-defined]
    assert rows[1] / rows[0] == pytest.approx((4 * 8 + 4) / (2 * 8 + 4), rel=1e-3)


def test_options_are_as_large_as_the_budget_in_either_precision() -> None:
    declared = TensorTrainTables(scheme="tensor_train", budget="2%", precision="fp16")
    plan = plan_tables(declared, SIZES)
    assert plan.bytes == resident_bytes(plan.schemes, 0, precision="fp16")
    assert 0.5 * plan.full_bytes < 50 * plan.bytes.total <= plan.full_bytes


def test_the_usual_precision_leaves_no_trace_in_a_declaration() -> None:
    before = FullTables(scheme="full").model_dump()
    assert "precision" not in before
    assert FullTables(scheme="full", precision="fp32").model_dump() == before
    assert FullTables(scheme="full", precision="fp16").model_dump() == before | {"precision": "fp16"}


def test_tables_that_learn_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="'opt_embed', which learns from small steps what to mask"):
        OptEmbedTables(scheme="opt_embed", precision="fp16")


# ---- checkpoints and ranks

SAVED = (Full("user", 20, 16), Hash("item", 29, 12), Unified("a", 31, 8, 4), Unified("b", 31, 8, 4))
NAMES = [scheme.feature for scheme in SAVED]


def train(model: Any, steps: range, rank: int = 0, world_size: int = 1) -> None:
    for step in steps:
        (model(batch(NAMES, rank, world_size, step)).values() ** 2).sum().mul(world_size).backward()


def test_a_checkpoint_restores_rows_to_the_bit_and_training_goes_on(group: None, tmp_path: Path) -> None:
    model = made(*SAVED)
    train(model, range(3))
    save(tmp_path / "half", model, {})
    again = made(*SAVED, seed=5)
    Checkpoint(tmp_path / "half").load_into(again)
    assert same(model, again)
    for tables in fbgemm_modules(engine_of(again)):  # what rounding depends on, as the training loop sets it
        tables.seed = 0
        tables.iter_cpu.fill_(3)
    train(model, range(3, 6))
    train(again, range(3, 6))
    assert same(model, again)
    saved = Checkpoint(tmp_path / "half")
    rows = 20 * 16 + 29 * 12 + 31 * 4
    assert 2 * rows + 4 * 80 < saved.bytes < 2 * rows + 4 * 80 + 2000
    assert saved.tables()["user/full"].dtype == np.float32


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x.values, y.values) for x, y in zip(pieces(a), pieces(b), strict=True))


def test_only_changed_rows_are_saved(group: None, tmp_path: Path) -> None:
    model, baseline = made(Full("user", 2000, 16)), Baseline()
    save(tmp_path / "0", model, {}, since=baseline)
    local_shards(model)[0].weight[7:9, 1] += 0.5
    save(tmp_path / "1", model, {}, since=baseline)
    changes = Checkpoint(tmp_path / "1")
    assert changes.bytes < Checkpoint(tmp_path / "0").bytes / 10
    again = made(Full("user", 2000, 16), seed=5)
    changes.load_into(again)
    assert same(model, again)


@pytest.mark.parametrize("saved", ["fp32", "fp16"])
def test_a_checkpoint_of_another_precision_is_refused_by_name(
    group: None, tmp_path: Path, saved: Precision
) -> None:
    other: Precision = "fp16" if saved == "fp32" else "fp32"
    save(tmp_path / "saved", made(*SAVED, precision=saved), {})
    model = made(*SAVED, precision=other, seed=5)
    before = snapshot(model)
    with pytest.raises(
        CheckpointError, match=f"table '.*': written with rows in {saved}, and here they are in {other}"
    ):
        Checkpoint(tmp_path / "saved").load_into(model)
    assert all(torch.equal(x.values, y.values) for x, y in zip(before, pieces(model), strict=True))


def ranks(folder: Path, in_ranks: Callable[..., list[int]]) -> None:
    """One rank and two train alike; each goes on from what the other saved."""
    in_ranks(1, begin, folder, 1, "table_wise")
    in_ranks(2, begin_and_go_on, folder, 2, "row_wise")
    in_ranks(1, go_on, folder, 1, "table_wise")


def begin_and_go_on(*arguments: Any) -> None:
    begin(*arguments)
    go_on(*arguments)


def begin(rank: int, folder: Path, world_size: int, sharding: str) -> None:
    model = made(*SAVED, sharding=sharding)
    train(model, range(4), rank, world_size)
    save(folder / f"half-{world_size}", model, {})


def go_on(rank: int, folder: Path, world_size: int, sharding: str) -> None:
    model = made(*SAVED, sharding=sharding, seed=5)
    Checkpoint(folder / f"half-{3 - world_size}").load_into(model)
    save(folder / f"again-{world_size}", model, {})
    bytes_of_rank = sum(piece.weight.nbytes for piece in local_shards(model))
    placed = sum(2 * p.num_weights for p in placements(model.plan) if p.rank == rank)
    (folder / f"bytes-{world_size}-{rank}.json").write_text(json.dumps([bytes_of_rank, placed]))


def test_two_ranks_train_what_one_does_and_read_each_others_checkpoints(
    tmp_path: Path, run_ranks: Any
) -> None:
    run_ranks(__file__, "ranks", tmp_path)
    one, two = (Checkpoint(tmp_path / f"half-{n}").tables() for n in (1, 2))
    for name, rows in one.items():  # a sum over ranks rounds otherwise, and then to the other neighbour
        np.testing.assert_allclose(two[name], rows, rtol=4 * ULP, atol=1e-4, err_msg=name)
    for world_size in (1, 2):
        begun, again = (
            Checkpoint(tmp_path / name) for name in (f"half-{3 - world_size}", f"again-{world_size}")
        )
        assert begun.names == again.names
        assert all(torch.equal(begun.read(name), again.read(name)) for name in begun.names)
        for rank in range(world_size):
            bytes_of_rank, placed = json.loads((tmp_path / f"bytes-{world_size}-{rank}.json").read_text())
            assert bytes_of_rank == placed
