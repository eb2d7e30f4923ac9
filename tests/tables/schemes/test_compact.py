"""Compact tables: a full table under masks, physically smaller; sharded, saved and gone on with like any other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables import Compact, Full, Shared
from recsys_tables.bytes import resident_bytes
from recsys_tables.distributed.checkpoint import load
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.distributed.pieces import load_start
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import TableOptimizer, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.remap import Remap
from recsys_tables.schemes.compact import compact_bytes, compact_from

D = 16
FULL = (Full("user", 50, D), Full("item", 30, D), Full("dead", 20, D), Full("gone", 10, D))
WIDTHS = {"user": 8, "item": 16, "dead": 0, "gone": 12}
BAGS = [[3, 3, 7], [], [0], [8, 1, 9, 2], [5]]


def keep_of(seed: int = 0, share: float = 0.5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    masks = {scheme.feature: random.random(scheme.num_ids) < share for scheme in FULL}
    return masks | {"gone": np.zeros(10, np.bool_)}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"{s.feature}/full": random.normal(size=(s.num_ids, D)).astype(np.float32) for s in FULL}


def engine_with(schemes: Any, tables: dict[str, np.ndarray], multivalued: bool = True) -> EmbeddingEngine:
    engine = EmbeddingEngine([Field(scheme, multivalued=multivalued) for scheme in schemes])
    with torch.no_grad():
        for name, parameter in engine.named_parameters():
            parameter.copy_(
                torch.from_numpy(tables[name.split("embedding_bags.")[1].removesuffix(".weight")])
            )
    return engine


def table_of(engine: EmbeddingEngine, name: str) -> Tensor:
    (parameter,) = (p for key, p in engine.named_parameters() if key.endswith(f"{name}.weight"))
    return parameter


def batch(bags: list[list[int]] = BAGS) -> KeyedJaggedTensor:
    """Make a batch with the same bags of every feature."""
    return KeyedJaggedTensor.from_lengths_sync(
        [scheme.feature for scheme in FULL],
        torch.tensor([i for bag in bags for i in bag] * 4, dtype=torch.int64),
        torch.tensor([len(bag) for bag in bags] * 4, dtype=torch.int32),
    )


def mask_of(scheme: Full, keep: np.ndarray) -> Tensor:
    """Row mask × column mask, [num_ids, D]."""
    return torch.from_numpy(keep[:, None] & (np.arange(D) < WIDTHS[scheme.feature])).float()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_it_is_the_masked_table_forward_and_backward(seed: int, share: float) -> None:
    keep, full = keep_of(seed, share), weights(seed)
    schemes, tables = compact_from(FULL, full, keep, WIDTHS)
    masks = {scheme.feature: mask_of(scheme, keep[scheme.feature]) for scheme in FULL}
    masked = {name: table * masks[name.split("/")[0]].numpy() for name, table in full.items()}
    small, large = engine_with(schemes, tables), engine_with(FULL, masked)
    torch.testing.assert_close(small(batch()).values(), large(batch()).values(), rtol=0, atol=1e-6)
    probe = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(BAGS), 4 * D))).float()
    for engine in (small, large):
        optimizer = torch.optim.SGD(engine.parameters(), lr=0.1)
        (engine(batch()).values() * probe).sum().backward()
        optimizer.step()
    for scheme in schemes:
        before = torch.from_numpy(tables[f"{scheme.feature}/compact"])
        after = table_of(small, f"{scheme.feature}/compact").detach()
        mask = keep[scheme.feature]
        if scheme.width == 0 or not mask.any():
            assert torch.equal(after, before), "nothing trains the row that stands for no row"
            continue
        expected = table_of(large, f"{scheme.feature}/full").detach()[mask, : scheme.width]
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)
        unseen = ~np.isin(np.flatnonzero(mask), [i for bag in BAGS for i in bag])
        assert torch.equal(after[unseen], before[unseen]), "a pruned id trains no row"


def test_a_default_row_is_the_mean_of_the_pruned_and_learns_from_them() -> None:
    keep, full = keep_of(), weights()
    schemes, tables = compact_from(FULL, full, keep, WIDTHS, "default")
    user, _, dead, gone = schemes
    assert [scheme.pruned for scheme in schemes] == ["default", "default", "zero", "default"]
    mean = full["user/full"][~keep["user"], :8].mean(axis=0)
    pruned = np.flatnonzero(~keep["user"])[:2]
    vectors = lookup(user, tables, pruned)
    np.testing.assert_allclose(vectors[:, :8], [mean, mean], rtol=1e-6)
    assert not vectors[:, 8:].any()
    assert not lookup(dead, tables, np.arange(20)).any()
    assert len(np.unique(lookup(gone, tables, np.arange(10)), axis=0)) == 1, (
        "one row for a field without others"
    )
    engine = engine_with(schemes[:1], tables)
    ids = KeyedJaggedTensor.from_lengths_sync(
        ["user"], torch.from_numpy(pruned), torch.ones(2, dtype=torch.int32)
    )
    engine(ids).values().sum().backward()
    grad = table_of(engine, "user/compact").grad
    assert grad is not None
    assert grad[-1].tolist() == [2.0] * 8
    assert not grad[:-1].any()
    (all_kept,), first = compact_from(FULL[:1], full, {"user": keep["user"] | True}, {"user": 8}, "default")
    assert not first["user/compact"][-1].any(), "nothing was pruned"
    assert all_kept.tables()[0].num_embeddings == 51


@given(
    codes=st.integers(0, 600),
    width=st.sampled_from([0, 4, 16]),
    optimizer=st.sampled_from(["sgd", "adagrad"]),
)
def test_bytes_without_a_scheme_are_those_with_one(codes: int, width: int, optimizer: Any) -> None:
    scheme = Compact("f", Remap.of(np.ones(codes, np.bool_)), width, D)
    assert compact_bytes(codes, width, optimizer) == resident_bytes([scheme], 0, optimizer).total


def test_bytes_are_those_of_what_is_kept() -> None:
    keep = {name: np.arange(len(mask)) < 5 for name, mask in keep_of().items()}
    schemes, tables = compact_from(FULL, weights(), keep, WIDTHS)
    counted = resident_bytes([*schemes, Shared("history", schemes[0])], 0)
    one_row = 4
    assert counted.parameters == 4 * (5 * (8 + 16 + 12) + one_row) == sum(t.nbytes for t in tables.values())
    assert counted.remaps == 4 * 40, "a block of 256 codes for each feature, once where it is shared"
    assert counted.total == counted.parameters + counted.remaps + 4 * (3 * 5 + 1)


def test_a_code_outside_the_remap_is_named() -> None:
    scheme = Compact("item", Remap.of(np.ones(30, np.bool_)), 8, 16)
    with pytest.raises(ValueError, match="feature 'item': id 30 at position 1 is outside"):
        scheme.rows(np.array([3, 30]))
    with pytest.raises(ValueError, match=r"feature 'item': id -1 at position 0 is outside 0\.\.29"):
        lookup(scheme, weights(), np.array([-1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda r: Compact("f", r, 6, 16),
            r"feature 'f': width 6 is none of 0, 4, 8, … up to embedding_dim 16",
        ),
        (lambda r: Compact("f", r, 20, 16), "width 20 is none of"),
        (lambda r: Compact("f", r, -4, 16), "width -4 is none of"),
        (
            lambda r: Compact("f", r, 4, 16, "mean"),
            "feature 'f': pruned 'mean' is neither 'zero' nor 'default'",
        ),
        (lambda r: Compact("f", r, 0, 16, "default"), "width 0 leaves no default row"),
    ],
)
def test_genes_that_cannot_be_are_refused(make: Callable[[Remap], Compact], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Remap.of(np.ones(3, np.bool_)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": {**WIDTHS, "other": 4}}, "feature 'other': is no full table, but has a width"),
        ({"widths": {"user": 4}}, "feature 'dead': has no width"),
        ({"keep": {"user": np.ones(50, np.bool_)}}, "feature 'dead': has no row mask"),
        (
            {"keep": {**keep_of(), "user": np.ones(49, np.bool_)}},
            r"'user': a row mask of shape \(49,\), and not \(50,\)",
        ),
        (
            {"tables": {**weights(), "user/full": np.ones((50, 8))}},
            r"'user': weights of shape \(50, 8\), and not",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"tables": weights(), "keep": keep_of(), "widths": WIDTHS} | change
    with pytest.raises(ValueError, match=message):
        compact_from(FULL, **arguments)


# ---- ranks


class Model(nn.Module):
    def __init__(self, schemes: Any) -> None:
        super().__init__()
        self.engine = EmbeddingEngine([Field(s, multivalued=True) for s in schemes], torch.device("meta"))
        self.top = nn.Linear(4 * D, 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        return self.top(self.engine(ids).values())


def schemes_of(seed: int) -> tuple[tuple[Compact, ...], dict[str, np.ndarray]]:
    return compact_from(FULL, weights(), keep_of(seed), WIDTHS, "default")


def make(sharding: Any, seed: int = 0) -> Any:
    schemes, _ = schemes_of(seed)
    torch.manual_seed(0)
    return shard(Model(schemes), TableOptimizer("rowwise_adagrad", lr=0.1), torch.device("cpu"), 0, sharding)


def between_ranks(folder: Path, in_ranks: Callable[..., None]) -> None:
    _, tables = schemes_of(0)
    save_file(
        {f"table/{name}": torch.from_numpy(table) for name, table in tables.items()},
        folder / "first.safetensors",
    )
    in_ranks(2, begin, folder)
    in_ranks(1, end, folder, "table_wise")
    in_ranks(2, end, folder, "row_wise")


def begin(rank: int, folder: Path) -> None:
    """Inherited weights, a step, a checkpoint, a step."""
    model = make("row_wise")
    load_start(folder / "first.safetensors", model)
    step(model, rank, 2)
    save(folder / "half", model, {})
    step(model, rank, 2)
    write(model, folder / f"begin-{rank}.json")


def end(rank: int, folder: Path, sharding: str) -> None:
    ranks = torch.distributed.get_world_size()
    model = make(sharding, seed=0)
    load(folder / "half", model)
    step(model, rank, ranks)
    write(model, folder / f"end-{ranks}-{rank}.json")
    other = make(sharding, seed=1)
    try:
        load(folder / "half", other)
    except CheckpointError as error:
        (folder / f"refused-{ranks}-{rank}").write_text(str(error))


def step(model: Any, rank: int, ranks: int) -> None:
    of_rank = np.array_split(np.arange(len(BAGS)), ranks)[rank]
    (model(batch([BAGS[i] for i in of_rank])) ** 2).sum().mul(ranks).backward()


def write(model: Any, file: Path) -> None:
    with torch.no_grad():
        every = batch([[i] for i in range(10)])
        file.write_text(json.dumps(model.module.engine(every).values().tolist()))


@pytest.mark.slow
def test_it_shards_and_goes_on_from_a_checkpoint(tmp_path: Path, run_ranks: Any) -> None:
    run_ranks(__file__, "between_ranks", tmp_path)
    (expected, *others) = (
        json.loads((tmp_path / f"{n}.json").read_text()) for n in ("begin-0", "end-1-0", "end-2-1")
    )
    for vectors_of_ranks in others:
        np.testing.assert_allclose(vectors_of_ranks, expected, rtol=1e-5, atol=1e-6)
    vectors = np.array(expected).reshape(10, 4, D)
    assert vectors[:, 0, :8].all()
    assert not vectors[:, 0, 8:].any()
    assert not vectors[:, 2].any()
    for name in ("refused-1-0", "refused-2-0"):
        why = (tmp_path / name).read_text()
        assert "written by another scheme: feature 'user': remap was '" in why
        assert " of 50 codes, " in why
