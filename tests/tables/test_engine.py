"""The engine against a dense oracle in float64, plain and in DistributedModelParallel.

TorchRec's collections answer in float32 whatever the weights are, hence the tolerances.
"""

import numpy as np
import pytest
import torch
from torchrec import KeyedJaggedTensor

from recsys.training.distributed import process_group
from recsys_tables import Full, Hash, QuotientRemainder, Unified
from recsys_tables.engine import EmbeddingEngine, Field
from recsys_tables.lookup import lookup

D = 8
IDS = 50
SCHEMES = {
    "full": lambda name: Full(name, IDS, D),
    "hash": lambda name: Hash(name, 13, D),
    "qr_sum": lambda name: QuotientRemainder(name, IDS, 7, D, "sum"),
    "qr_concat": lambda name: QuotientRemainder(name, IDS, 7, D, "concat"),
    "qr_product": lambda name: QuotientRemainder(name, IDS, 7, D, "product"),
    "unified": lambda name: Unified(name, 31, D, 4),
}


def jagged(bags: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=list(bags),
        values=torch.tensor([i for rows in bags.values() for bag in rows for i in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for rows in bags.values() for bag in rows], dtype=torch.int32),
    )


def weights(engine: EmbeddingEngine) -> dict[str, torch.nn.Parameter]:
    return {
        name.split("embedding_bags.")[1].removesuffix(".weight"): parameter
        for name, parameter in engine.named_parameters()
    }


def oracle(field: Field, tables: dict[str, np.ndarray], bags: list[list[int]]) -> np.ndarray:
    """One id at a time: look it up, combine, then sum or average the bag."""
    out = np.zeros((len(bags), D), tables[next(iter(tables))].dtype)
    for sample, bag in enumerate(bags):
        for i in bag:
            out[sample] += lookup(field.scheme, tables, np.array([i]))[0]
        if field.pooling == "mean" and bag:
            out[sample] /= len(bag)
    return out


BAGS = [[3, 3, 49], [], [0], [7, 14, 21, 28], []]
ONES = [[5], [0], [49], [5], [17]]


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_forward_and_gradients_equal_a_dense_oracle_in_float64(scheme: str, pooling: str) -> None:
    fields = [
        Field(SCHEMES[scheme]("genre"), pooling, multivalued=True),
        Field(SCHEMES[scheme]("user")),
    ]
    engine = EmbeddingEngine(fields).double()
    bags = {"genre": BAGS, "user": ONES}
    tables = {name: value.detach().numpy() for name, value in weights(engine).items()}
    out = engine(jagged(bags))
    expected = np.concatenate([oracle(field, tables, bags[field.scheme.feature]) for field in fields], axis=1)
    np.testing.assert_allclose(out.values().detach().numpy(), expected, rtol=1e-6, atol=1e-8)
    assert out.keys() == ["genre", "user"]

    probe = torch.linspace(-1, 1, out.values().numel(), dtype=torch.float64).view_as(out.values())
    (out.values() * probe).sum().backward()
    name, parameter = next(iter(weights(engine).items()))
    step = 1e-6
    for row, column in [(0, 0), (1, 3), (2, 1)]:
        values = []
        for sign in (1, -1):
            moved = {k: v.copy() for k, v in tables.items()}
            moved[name][row, column] += sign * step
            y = np.concatenate([oracle(f, moved, bags[f.scheme.feature]) for f in fields], axis=1)
            values.append((y * probe.numpy()).sum())
        assert parameter.grad is not None
        assert parameter.grad[row, column].item() == pytest.approx(
            (values[0] - values[1]) / (2 * step), abs=1e-6
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_empty_batch_and_all_empty_bags(scheme: str) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("genre"), "mean", multivalued=True)])
    assert engine(jagged({"genre": []})).values().shape == (0, D)
    out = engine(jagged({"genre": [[], []]})).values()
    assert torch.equal(out, torch.zeros(2, D))
    out.sum().backward()  # no rows were read, and backward does not raise


def test_product_is_not_pooled_before_it_is_combined() -> None:
    """The bug of the first public quotient-remainder: (Q1+Q2)·(R1+R2) in place of Q1·R1 + Q2·R2."""
    scheme = QuotientRemainder("genre", IDS, 7, D, "product")
    engine = EmbeddingEngine([Field(scheme, multivalued=True)])
    tables = {name: value.detach().numpy() for name, value in weights(engine).items()}
    bag = np.array([3, 11])
    wrong = scheme.combine_numpy([tables[x.table][x.rows[:, 0]].sum(axis=0) for x in scheme.rows(bag)])
    right = engine(jagged({"genre": [[3, 11]]})).values().detach().numpy()[0]
    np.testing.assert_allclose(right, lookup(scheme, tables, bag).sum(axis=0), rtol=1e-5)
    assert not np.allclose(right, wrong)


def test_mean_is_right_for_schemes_with_several_lookups() -> None:
    scheme = Unified("genre", 31, D, 4)
    engine = EmbeddingEngine([Field(scheme, "mean", multivalued=True)])
    tables = {name: value.detach().numpy() for name, value in weights(engine).items()}
    got = engine(jagged({"genre": [[1, 2, 3]]})).values().detach().numpy()[0]
    np.testing.assert_allclose(got, lookup(scheme, tables, np.array([1, 2, 3])).mean(axis=0), rtol=1e-5)


def test_a_shared_table_is_one_parameter() -> None:
    engine = EmbeddingEngine([Field(Unified("a", 31, D, 4)), Field(Unified("b", 31, D, 4))])
    assert [tuple(p.shape) for p in engine.parameters()] == [(31, 4)]


@pytest.mark.parametrize("bad", [-1, IDS, 2**53 + 1, -(2**63)])
@pytest.mark.parametrize("scheme", ["full", "qr_sum", "qr_product"])
def test_an_id_outside_a_dense_id_space_is_named(scheme: str, bad: int) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("user"))])
    with pytest.raises(ValueError, match=rf"feature 'user': id {bad} at position 1 is outside 0\.\.49"):
        engine(jagged({"user": [[4], [bad]]}))


@pytest.mark.parametrize("scheme", ["hash", "unified"])
def test_hashed_schemes_take_any_64_bit_id(scheme: str) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("user"))])
    ids = [-1, 2**53 + 1, 2**53, -(2**63), 2**63 - 1]
    out = engine(jagged({"user": [[i] for i in ids]})).values()
    tables = {name: value.detach().numpy() for name, value in weights(engine).items()}
    np.testing.assert_array_equal(
        out.detach().numpy(), lookup(SCHEMES[scheme]("user"), tables, np.array(ids, np.int64))
    )


def test_wrong_batches_are_refused_with_names() -> None:
    engine = EmbeddingEngine([Field(Hash("user", 10, D))])
    with pytest.raises(ValueError, match=r"lacks features \['user'\] and has unknown features \['usr'\]"):
        engine(jagged({"usr": [[1]]}))
    with pytest.raises(ValueError, match="'user' is single-valued, but sample 1 holds 2 ids"):
        engine(jagged({"user": [[1], [1, 2]]}))
    ids = KeyedJaggedTensor.from_lengths_sync(
        keys=["user"], values=torch.tensor([1.0]), lengths=torch.tensor([1])
    )
    with pytest.raises(ValueError, match=r"ids are torch\.float32, not torch\.int64"):
        engine(ids)
    weighted = KeyedJaggedTensor.from_lengths_sync(
        keys=["user"], values=torch.tensor([1]), lengths=torch.tensor([1]), weights=torch.tensor([1.0])
    )
    with pytest.raises(ValueError, match="carry weights"):
        engine(weighted)
    with pytest.raises(ValueError, match="declared twice"):
        EmbeddingEngine([Field(Hash("user", 10, D)), Field(Hash("user", 10, D))])


def test_someone_elses_training_loop(tmp_path: object) -> None:
    """The example of the README: no YAML, no trainer, twenty lines of ordinary PyTorch."""
    torch.manual_seed(0)
    engine = EmbeddingEngine([Field(Hash("user", 100, 8)), Field(Unified("item", 64, 8, 4))])
    model = torch.nn.ModuleDict({"engine": engine, "top": torch.nn.Linear(16, 1)})
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    ids = KeyedJaggedTensor.from_lengths_sync(
        keys=["user", "item"], values=torch.arange(128), lengths=torch.ones(128, dtype=torch.int32)
    )
    label = (torch.arange(64) % 3 == 0).float()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        logit = model["top"](model["engine"](ids).values()).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharded_on_one_rank_equals_plain(scheme: str) -> None:
    from recsys.config import LRConfig, TrainingConfig
    from recsys.models import LR, ClickModel
    from recsys.training.checkpoint import logical_state
    from recsys.training.distributed import shard

    fields = [Field(SCHEMES[scheme]("genre"), "mean", multivalued=True), Field(SCHEMES[scheme]("user"))]
    bags = jagged({"genre": BAGS, "user": ONES})
    with process_group():
        network = LR(LRConfig(name="lr"), 1, 2, D)
        engine = EmbeddingEngine(fields, torch.device("meta"))
        model, _ = shard(ClickModel(engine, network), TrainingConfig(), torch.device("cpu"))
        state = logical_state(model)
        plain = EmbeddingEngine(fields)
        with torch.no_grad():
            for name, parameter in weights(plain).items():
                parameter.copy_(state[f"table/{name}"])
        sharded, _ = model(torch.zeros(5, 1), bags)
        expected, _ = ClickModel(plain, network)(torch.zeros(5, 1), bags)
        torch.testing.assert_close(sharded, expected, rtol=1e-6, atol=1e-6)
