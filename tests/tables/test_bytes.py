"""Bytes are counted by kind, shared tables once."""

from typing import get_args

import pytest

from recsys_tables import (
    Full,
    MixedDimension,
    PathBased,
    QuotientRemainder,
    TensorTrain,
    Unified,
    resident_bytes,
)
from recsys_tables.bytes import OptimizerName, ResidentBytes, combine_bytes, optimizer_row_bytes


def test_bytes_by_kind() -> None:
    counted = resident_bytes([Full("a", 100, 8), QuotientRemainder("b", 100, 7, 8)], vocabulary_bytes=50)
    rows = 100 + 15 + 7
    assert (counted.parameters, counted.optimizer, counted.vocabulary) == (4 * 8 * rows, 4 * rows, 50)
    assert counted.total == 4 * 8 * rows + 4 * rows + 50
    assert counted.serving == counted.total - counted.optimizer
    assert counted.to_dict() == {
        "parameters": 4 * 8 * rows,
        "optimizer": 4 * rows,
        "vocabulary": 50,
        "remaps": 0,
        "codes": 0,
        "pointers": 0,
        "dense": 0,
        "statistics": 0,
        "total": counted.total,
        "serving": counted.serving,
    }


def test_a_shared_table_counts_once() -> None:
    both = [Unified("a", 100, 8, 4), Unified("b", 100, 8, 4)]
    assert resident_bytes(both, 0) == resident_bytes(both[:1], 0)
    assert resident_bytes(both, 0).parameters == 100 * 4 * 4


def test_every_kind_is_resident_and_only_the_optimiser_stays_behind() -> None:
    one = ResidentBytes(1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
    assert (one.total, one.serving) == (11_111_111, 11_111_101)
    assert one + one == ResidentBytes(2, 20, 200, 2000, 20_000, 200_000, 2_000_000, 20_000_000)
    with_statistics = resident_bytes([Full("a", 100, 8)], 50, statistics_bytes=70)
    assert with_statistics == resident_bytes([Full("a", 100, 8)], 50) + ResidentBytes(statistics=70)


def test_what_a_combine_holds_is_counted_with_the_state_of_adam() -> None:
    projection = MixedDimension("a", 100, 4, 16)
    assert combine_bytes(projection) == ResidentBytes(dense=4 * 64, optimizer=8 * 64)
    numbers = 3 * (2 * 16 * 5 + 5 + 16)
    assert combine_bytes(PathBased("a", 9, 3, 16, 5)) == ResidentBytes(
        dense=4 * numbers, optimizer=8 * numbers
    )
    for scheme in (Full("a", 9, 8), TensorTrain("a", 27, (3, 3), 8, 2), MixedDimension("a", 9, 8, 8)):
        assert combine_bytes(scheme) == ResidentBytes()
    counted = resident_bytes([projection, Full("b", 10, 16)], 7)
    assert (counted.parameters, counted.vocabulary) == (4 * (400 + 160), 7)
    assert (counted.optimizer, counted.dense) == (4 * 110 + 8 * 64, 4 * 64)


def test_counting_a_combine_draws_no_random_number() -> None:
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    combine_bytes(MixedDimension("fresh", 12, 4, 8))
    combine_bytes(PathBased("fresh", 12, 3, 8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", sorted(get_args(OptimizerName)))
def test_the_optimiser_keeps_what_is_counted(optimizer: OptimizerName) -> None:
    """Its state as the tables really allocate it."""
    import torch

    from recsys.training.distributed import process_group
    from recsys_tables.distributed.sharding import TableOptimizer, local_shards, shard
    from recsys_tables.engine.engine import EmbeddingEngine
    from recsys_tables.field import Field

    schemes = [Unified("a", 100, 8, 4), QuotientRemainder("b", 100, 7, 8)]
    with process_group():
        engine = EmbeddingEngine([Field(scheme) for scheme in schemes], torch.device("meta"))
        model = shard(engine, TableOptimizer(optimizer), torch.device("cpu"), seed=0)
        pieces = local_shards(model)
        held = sum(piece.weight.nbytes for piece in pieces)
        state = sum(value.nbytes for piece in pieces for value in piece.states.values())
    counted = resident_bytes(schemes, 0, optimizer)
    assert (held, state) == (counted.parameters, counted.optimizer)
    by_row = {"rowwise_adagrad": 4, "adagrad": 32, "sgd": 0, "adam": 2 * 32 + 4}
    assert optimizer_row_bytes(8, optimizer) == by_row[optimizer]
