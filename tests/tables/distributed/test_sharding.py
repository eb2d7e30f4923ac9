"""Sharding: plans that fit and cover every value, first values and training that do not depend on them, memory."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables import DeepHash, Full, Hash, QuotientRemainder, Unified
from recsys_tables.config import scheme_classes
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import (
    Placement,
    Sharding,
    TableOptimizer,
    local_shards,
    placements,
    plan_sharding,
    shard,
    table_of,
)
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.scheme import Scheme

CPU = torch.device("cpu")
InRanks = Callable[..., list[int]]
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "sharding_agreement.py"


def meta(*schemes: Scheme) -> EmbeddingEngine:
    return EmbeddingEngine([Field(scheme) for scheme in schemes], torch.device("meta"))


# ---- agreement between ranks

TOLERANCE = 5e-5  # of a tensor's largest value, in float32; measured: 7e-6 after 10 steps, most schemes 1e-6


def agreement(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", str(BENCHMARK), "--json", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate()
    finally:  # its ranks, too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    return json.loads(output)


def worst(row: dict[str, Any]) -> float:
    return max(row[kind] for kind in ("outputs", "gradients", "weights", "states"))


def test_two_ranks_compute_what_one_does() -> None:
    rows = agreement(
        *("--ranks", "2", "--steps", "8", "--schemes", "quotient_remainder product", "unified 2 tables"),
        *("opt_embed", "opt_embed by id"),
    )
    assert {row["sharding"] for row in rows} == {"table_wise", "row_wise", "column_wise", "auto"}
    assert len(rows) == 16
    assert [row for row in rows if not worst(row) <= TOLERANCE] == []


@pytest.mark.slow
def test_the_comparison_sees_ranks_that_began_with_other_weights() -> None:
    for row in agreement("--ranks", "2", "--steps", "2", "--schemes", "hash", "--seed", "4"):
        assert min(row["outputs"], row["gradients"], row["weights"]) > 20 * TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_scheme_computes_the_same_on_two_and_four_ranks() -> None:
    rows = agreement("--ranks", "2", "4")
    assert len(rows) == 2 * 4 * len({row["scheme"] for row in rows})
    assert [row for row in rows if not worst(row) <= TOLERANCE] == []


def test_every_scheme_is_compared() -> None:
    compared = {type(make("x")) for make in runpy.run_path(str(BENCHMARK))["SCHEMES"].values()}
    assert set(scheme_classes().values()) - {DeepHash} <= compared, "DeepHash has no tables"


# ---- plans

TABLES = (Full("a", 10_001, 16), Full("b", 3000, 20), Hash("c", 5000, 36), QuotientRemainder("d", 900, 30, 8))
LARGE = (Full("a", 10**7, 16), Full("b", 3 * 10**6, 20), Hash("c", 5 * 10**6, 36))
LARGE_BYTES = sum(table.parameter_bytes for scheme in LARGE for table in scheme.tables())
TABLE_BYTES = sum(table.parameter_bytes for scheme in TABLES for table in scheme.tables())


def plan(
    sharding: Sharding,
    ranks: int,
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd"] = "adagrad",
    memory: int | None = None,
) -> list[Placement]:
    return placements(
        plan_sharding(meta(*TABLES), sharding, TableOptimizer(optimizer), ranks, CPU, None, memory)
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("sharding", ["auto", "table_wise", "row_wise", "column_wise"])
def test_a_plan_places_every_value_once(sharding: Sharding, ranks: int) -> None:
    shards = plan(sharding, ranks)
    for table in [table for scheme in TABLES for table in scheme.tables()]:
        times = np.zeros((table.num_embeddings, table.embedding_dim), int)
        for piece in [piece for piece in shards if piece.table == table.name]:
            assert piece.rank in range(ranks)
            assert piece.columns % 4 == 0
            times[
                piece.first_row : piece.first_row + piece.rows,
                piece.first_column : piece.first_column + piece.columns,
            ] += 1
        assert (times == 1).all(), table.name
    assert sum(4 * piece.num_weights for piece in shards) == TABLE_BYTES
    assert sharding == "auto" or {piece.sharding for piece in shards} == {sharding}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_columns_are_split_whatever_the_width(ranks: int) -> None:
    """TorchRec leaves a table whole whose width is no multiple of the shard's."""
    widths = {piece.table: set() for piece in plan("column_wise", ranks)}  # type: ignore[var-annotated]
    for piece in plan("column_wise", ranks):
        widths[piece.table].add(piece.columns)
    dims = {table.name: table.embedding_dim for scheme in TABLES for table in scheme.tables()}
    for table, of_table in widths.items():
        assert len(of_table) == 1
        assert max(of_table) <= max(4, dims[table] // ranks) < dims[table]


@pytest.mark.parametrize(("sharding", "most"), [("row_wise", 0.51), ("column_wise", 0.7)])
def test_every_rank_has_its_share(sharding: Sharding, most: float) -> None:
    by_rank = [sum(4 * p.num_weights for p in plan(sharding, 2) if p.rank == rank) for rank in range(2)]
    assert max(by_rank) < most * TABLE_BYTES


@pytest.mark.parametrize("sharding", ["row_wise", "auto"])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 6, 7, 8, 9, 10])
def test_no_rank_has_a_row_shard_without_rows(sharding: Sharding, rows: int) -> None:
    """FBGEMM's CPU backward reads the gradient of the table after it from the wrong columns."""
    engine = meta(Full("a", rows, 4), Full("b", 1000, 8))
    shards = placements(plan_sharding(engine, sharding, TableOptimizer(), 4, CPU))
    assert min(piece.rows for piece in shards) > 0
    if sharding == "row_wise":
        split = {piece.sharding for piece in shards if piece.table == "a/full"} == {"row_wise"}
        assert split == (rows in (4, 7, 8, 10))


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad", "adagrad"])
def test_a_plan_keeps_to_the_memory_of_a_rank_with_the_optimisers_state(optimizer: Any) -> None:
    resident = {"sgd": 1.0, "rowwise_adagrad": 1 + 1 / 36, "adagrad": 2.0}[optimizer]  # at least
    fits = []
    for percent in range(40, 200, 10):
        memory = LARGE_BYTES * percent // 100
        try:
            plan = plan_sharding(meta(*LARGE), "auto", TableOptimizer(optimizer), 2, CPU, None, memory)
        except ValueError:
            continue
        fits.append(percent)
        for rank in range(2):
            assert resident * sum(4 * p.num_weights for p in placements(plan) if p.rank == rank) <= memory
    assert 50 * resident <= fits[0] <= 50 * resident * 1.3, "the planner keeps 15 % for itself"
    assert fits == list(range(fits[0], 200, 10))


def test_tables_that_do_not_fit_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="cannot be sharded") as error:
        plan("auto", 2, memory=TABLE_BYTES // 3)
    assert str(error.value) == (
        f"the tables ({TABLE_BYTES:,} bytes) cannot be sharded auto over 2 ranks of {TABLE_BYTES // 3:,} bytes: "
        "Unable to find a plan for this model because of insufficient storage."
    )
    with pytest.raises(ValueError, match="cannot be sharded table_wise over 4 ranks of 0 bytes"):
        plan("table_wise", 4, memory=0)


def test_column_shards_need_an_elementwise_optimiser(group: None) -> None:
    why = "column_wise sharding needs an elementwise table optimiser: use 'adagrad', 'adam' or 'sgd'"
    with pytest.raises(ValueError, match=why):
        plan("column_wise", 2, "rowwise_adagrad")
    with pytest.raises(ValueError, match=why):
        shard(nn.ModuleList([meta(*TABLES)]), TableOptimizer(), CPU, 0, "column_wise")
    assert {p.sharding for p in plan("auto", 2, "rowwise_adagrad")} <= {"table_wise", "row_wise"}


def test_planning_leaves_the_model_as_it_was() -> None:
    engine = meta(*TABLES)
    before = [set(vars(parameter)) for parameter in engine.parameters()]
    plan_sharding(engine, "auto", TableOptimizer("adagrad"), 2, CPU)
    assert [set(vars(parameter)) for parameter in engine.parameters()] == before
    assert all(parameter.is_meta for parameter in engine.parameters())


# ---- a rank that cannot go on


def refusals(folder: Path, in_ranks: InRanks) -> None:
    in_ranks(2, refuse_one_batch, folder)


def refuse_one_batch(rank: int, folder: Path) -> None:
    model = shard(nn.ModuleList([meta(Full("a", 10, 8))]), TableOptimizer(), CPU, 0, "row_wise")
    said = []
    for last in (3, 99 if rank == 1 else 3, 5):
        ids = KeyedJaggedTensor.from_lengths_sync(["a"], torch.tensor([1, last]), torch.tensor([1, 1]))
        try:
            model.module[0](ids)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(said))


def test_a_batch_that_one_rank_refuses_is_refused_by_all_and_the_next_one_runs(
    run_ranks: Any, tmp_path: Path
) -> None:
    run_ranks(__file__, "refusals", tmp_path)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [[text == "" for text in texts] for texts in said] == [[True, False, True]] * 2
    assert "another rank refused its part of the batch" in said[0][1]
    assert "feature 'a': id 99 at position 1 is outside 0..9" in said[1][1]


# ---- first values

FIRST = (Full("a", 1001, 20), Full("b", 1001, 20), QuotientRemainder("c", 500, 9, 8), Unified("d", 3, 8, 4))


def first_values(folder: Path, in_ranks: InRanks) -> None:
    for world_size in (1, 2):
        in_ranks(world_size, save_first_values, world_size, folder)


def first_values_of_four(folder: Path, in_ranks: InRanks) -> None:
    for world_size in (1, 4):
        in_ranks(world_size, save_first_values, world_size, folder)


def save_first_values(rank: int, world_size: int, folder: Path) -> None:
    kinds: tuple[Sharding, ...] = ("table_wise", "row_wise", "column_wise")
    for sharding in kinds:
        torch.manual_seed(100 * world_size + rank)  # of no influence
        model = shard(nn.ModuleList([meta(*FIRST)]), TableOptimizer("adagrad"), CPU, 5, sharding)
        save(folder / f"{sharding}-{world_size}", model, {})


@pytest.mark.parametrize(
    "work", ["first_values", pytest.param("first_values_of_four", marks=pytest.mark.slow)]
)
def test_first_values_are_the_same_on_any_ranks_and_sharding(
    run_ranks: Any, tmp_path: Path, work: str
) -> None:
    run_ranks(__file__, work, tmp_path)
    by_sharding = {path.name: Checkpoint(path).tables() for path in tmp_path.iterdir()}
    assert len(by_sharding) == 6
    one = by_sharding["table_wise-1"]
    assert one.keys() == {"a/full", "b/full", "c/quotient", "c/remainder", "unified/shared"}
    for name, tables in by_sharding.items():
        assert all(np.array_equal(tables[table], one[table]) for table in one), name


def tables_of(seed: int, *schemes: Scheme) -> dict[str, Tensor]:
    model = shard(nn.ModuleList([meta(*schemes)]), TableOptimizer(), CPU, seed)
    return {piece.table: piece.weight.clone() for piece in local_shards(model)}


def test_first_values_are_uniform_within_the_bound(group: None) -> None:
    bound, values = 0.03, next(iter(tables_of(0, Full("a", 20_000, 24, 0.03)).values())).double().numpy()
    n = values.size
    assert -bound <= values.min() < -bound * (1 - 20 / n)
    assert bound * (1 - 20 / n) < values.max() <= bound
    assert abs(values.mean()) < 4 * bound / (3 * n) ** 0.5
    assert values.var() == pytest.approx(bound**2 / 3, rel=4 * (0.8 / n) ** 0.5)
    assert kstest(values.ravel() / (2 * bound) + 0.5, "uniform").pvalue > 1e-3
    rows, columns = values[1:].ravel(), values[:, 1:].ravel()
    assert abs(np.corrcoef(rows, values[:-1].ravel())[0, 1]) < 4 / n**0.5
    assert abs(np.corrcoef(columns, values[:, :-1].ravel())[0, 1]) < 4 / n**0.5
    assert len(np.unique(values, axis=0)) == len(values)


def test_first_values_differ_between_tables_and_seeds_and_not_between_models(group: None) -> None:
    both = tables_of(0, Full("a", 500, 8), Full("b", 500, 8))
    again = tables_of(0, Full("b", 500, 8), Full("c", 9, 8))
    assert torch.equal(both["b/full"], again["b/full"])
    other = tables_of(1, Full("a", 500, 8))["a/full"]
    for one in (both["b/full"], other):
        assert abs(np.corrcoef(both["a/full"].ravel(), one.ravel())[0, 1]) < 4 / 4000**0.5
    grown = tables_of(0, Full("a", 700, 8))["a/full"]
    assert torch.equal(grown[:500], both["a/full"]), "a table that has grown begins as the smaller one"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_first_values_of_the_cpu_and_its_checkpoint_is_read_there(
    group: None, tmp_path: Path
) -> None:
    models = [
        shard(nn.ModuleList([meta(*FIRST)]), TableOptimizer(), device, 5)
        for device in (CPU, torch.device("cuda"))
    ]
    for one, other in zip(*map(local_shards, models), strict=True):
        assert (one.table, one.weight.device.type, other.weight.device.type) == (other.table, "cpu", "cuda")
        assert torch.equal(one.weight, other.weight.cpu())
        other.weight.add_(1)
    save(tmp_path / "gpu", models[1], {})
    Checkpoint(tmp_path / "gpu").load_into(models[0])
    for one, other in zip(*map(local_shards, models), strict=True):
        assert torch.equal(one.weight, other.weight.cpu())


def test_a_negative_seed_is_refused(group: None) -> None:
    with pytest.raises(ValueError, match="seed -1 is negative"):
        tables_of(-1, Full("a", 5, 8))


# ---- optimisers


@pytest.mark.parametrize("name", ["adagrad", "sgd"])
def test_the_fused_optimiser_is_torchs(group: None, name: Any) -> None:
    """Rowwise Adagrad, which torch has not, is checked in tests/recsys/test_training.py."""
    model = shard(nn.ModuleList([meta(Full("a", 6, 4))]), TableOptimizer(name, lr=0.3, eps=1e-3), CPU, 0)
    weight = nn.Parameter(local_shards(model)[0].weight.double())
    make: Any = {"adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}[name]
    optimizer = make([weight], lr=0.3, **({"eps": 1e-3} if name == "adagrad" else {}))
    ids = KeyedJaggedTensor.from_lengths_sync(["a"], torch.tensor([1, 3, 3]), torch.tensor([1, 1, 1]))
    for _ in range(3):
        values = engine_of(model)(ids).values()
        (values**2 + values).sum().backward()
        optimizer.zero_grad()
        (weight[[1, 3, 3]] ** 2 + weight[[1, 3, 3]]).sum().backward()
        optimizer.step()
        torch.testing.assert_close(
            local_shards(model)[0].weight.double(), weight.detach(), rtol=1e-5, atol=1e-6
        )


def test_names_of_parameters_tell_tables_from_the_rest() -> None:
    assert table_of("module.engine.collections.pooled.embedding_bags.c1/full.weight") == "c1/full"
    assert table_of("network.embedding.weight") is None


# ---- memory

BIG = Full("item", 1_600_000, 64)  # 410 MB
SMALLER = Full("item", 1_200_000, 64)


def two_ranks(folder: Path, in_ranks: InRanks) -> None:
    in_ranks(2, measure, SMALLER, folder)


def two_ranks_big(folder: Path, in_ranks: InRanks) -> None:
    in_ranks(2, measure, BIG, folder)


def four_ranks_big(folder: Path, in_ranks: InRanks) -> None:
    in_ranks(4, measure, BIG, folder)


def measure(rank: int, scheme: Full, folder: Path) -> None:
    """Growth of this process's peak of resident memory, in bytes, by the end of each stage."""
    model: Any = nn.ModuleList([meta(scheme)])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, peaks = resident("VmRSS"), {}
    model = shard(model, TableOptimizer(), CPU, 0, "row_wise")
    peaks["shard"] = resident("VmHWM") - before
    ids = torch.randint(0, scheme.num_ids, (4096,), generator=torch.Generator().manual_seed(rank))
    batch = KeyedJaggedTensor.from_lengths_sync(["item"], ids, torch.ones(4096, dtype=torch.int64))
    engine_of(model)(batch).values().sum().backward()
    peaks["step"] = resident("VmHWM") - before
    save(folder / "saved", model, {})
    peaks["save"] = resident("VmHWM") - before
    Checkpoint(folder / "saved").load_into(model)
    peaks["load"] = resident("VmHWM") - before
    (folder / f"memory-{rank}.json").write_text(json.dumps(peaks))


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(
    ("work", "ranks", "scheme"),
    [
        ("two_ranks", 2, SMALLER),
        pytest.param("two_ranks_big", 2, BIG, marks=pytest.mark.slow),
        pytest.param("four_ranks_big", 4, BIG, marks=pytest.mark.slow),
    ],
)
def test_no_rank_holds_as_much_as_the_table_it_helps_to_hold(
    run_ranks: Any, tmp_path: Path, work: str, ranks: int, scheme: Full
) -> None:
    run_ranks(__file__, work, tmp_path)
    size = scheme.tables()[0].parameter_bytes
    for rank in range(ranks):
        grown = json.loads((tmp_path / f"memory-{rank}.json").read_text())
        shown = ", ".join(f"{stage} {peak / 1e6:.0f}" for stage, peak in grown.items())
        print(f"rank {rank} of {ranks}, table of {size / 1e6:.0f} MB: {shown}")
        share = size / ranks * (1 + 1 / 64)
        assert share <= grown["shard"] <= grown["load"] < share + 130e6 < size
