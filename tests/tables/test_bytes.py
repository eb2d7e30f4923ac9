"""Bytes are counted by kind, shared tables once."""

from recsys_tables import Full, QuotientRemainder, Unified, resident_bytes


def test_bytes_by_kind() -> None:
    found = resident_bytes([Full("a", 100, 8), QuotientRemainder("b", 100, 7, 8)], vocabulary_bytes=50)
    rows = 100 + 15 + 7
    assert (found.parameters, found.optimizer, found.vocabulary) == (4 * 8 * rows, 4 * rows, 50)
    assert found.total == 4 * 8 * rows + 4 * rows + 50
    assert found.serving == found.total - found.optimizer
    assert found.to_dict() == {
        "parameters": 4 * 8 * rows,
        "optimizer": 4 * rows,
        "vocabulary": 50,
        "total": found.total,
        "serving": found.serving,
    }


def test_a_shared_table_counts_once() -> None:
    both = [Unified("a", 100, 8, 4), Unified("b", 100, 8, 4)]
    assert resident_bytes(both, 0) == resident_bytes(both[:1], 0)
    assert resident_bytes(both, 0).parameters == 100 * 4 * 4


def test_the_optimiser_keeps_what_is_counted() -> None:
    """Rowwise Adagrad's state as FBGEMM really allocates it."""
    import torch

    from recsys.config import LRConfig, TrainingConfig
    from recsys.models import LR, ClickModel
    from recsys.training.checkpoint import logical_state
    from recsys.training.distributed import process_group, shard
    from recsys_tables.engine import EmbeddingEngine, Field

    schemes = [Unified("a", 100, 8, 4), QuotientRemainder("b", 100, 7, 8)]
    with process_group():
        engine = EmbeddingEngine([Field(scheme) for scheme in schemes], torch.device("meta"))
        model, _ = shard(
            ClickModel(engine, LR(LRConfig(name="lr"), 0, 2, 8)), TrainingConfig(), torch.device("cpu")
        )
        state = logical_state(model)
    counted = resident_bytes(schemes, 0)
    for kind, expected in (("table/", counted.parameters), ("optimizer/", counted.optimizer)):
        held = sum(value.nbytes for name, value in state.items() if name.startswith(kind))
        assert held == expected
