"""The engine against a dense oracle in float64, forward and backward, and the batches it refuses.

TorchRec's collections answer in float32 whatever the weights are, hence the tolerances.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables import FrequencySplit, Full, Hash, MultiHash, QuotientRemainder, Unified
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.distributed.sharding import TableOptimizer, local_shards, shard
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.scheme import Lookup, Scheme, Table, stack_columns

D = 8
IDS = 50


@dataclass(frozen=True)
class Signed(ParameterFree):
    """Two hashed rows, each times a sign of the id: constant weights."""

    feature: str
    num_embeddings: int = 13
    embedding_dim: int = D
    operation: Literal["sum"] = "sum"
    num_ids = None

    def tables(self) -> tuple[Table, ...]:
        return (Table(f"{self.feature}/signed", self.num_embeddings, D, 0.05),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        rows = [hash_rows(ids, lookup_salt(self.feature, j), self.num_embeddings) for j in range(2)]
        signs = stack_columns([1 - 2 * hash_rows(ids, lookup_salt(self.feature, 2 + j), 2) for j in range(2)])
        signs = signs.astype(np.float32) if isinstance(signs, np.ndarray) else signs.float()
        return (Lookup(f"{self.feature}/signed", stack_columns(rows), signs),)


class Halves(nn.Module):
    """Half `slot` of a row, twice, times a dense vector."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, D))

    def forward(self, vectors: list[Tensor], slots: Tensor) -> Tensor:
        halves = vectors[0].view(-1, 2, D // 2)[torch.arange(len(slots), device=slots.device), slots[:, 0]]
        return torch.cat([halves, halves], dim=1) * self.scale


@dataclass(frozen=True)
class Packed:
    """Two ids to a row; which half is an id's own stays on the rank: `aux`."""

    feature: str
    num_ids: int = IDS
    embedding_dim: int = D
    linear = False
    grows: ClassVar[str | None] = None

    def tables(self) -> tuple[Table, ...]:
        return (Table(f"{self.feature}/packed", -(-self.num_ids // 2), D, 0.05),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        return (Lookup(f"{self.feature}/packed", (ids // 2)[:, None]),)

    def aux(self, ids: Any) -> Any:
        return (ids % 2)[:, None]

    def combine(self) -> nn.Module:
        return Halves()


SCHEMES: dict[str, Any] = {
    "full": lambda name: Full(name, IDS, D),
    "hash": lambda name: Hash(name, 13, D),
    "multi_hash": lambda name: MultiHash(name, 13, D, 3),
    "qr_sum": lambda name: QuotientRemainder(name, IDS, 7, D, "sum"),
    "qr_concat": lambda name: QuotientRemainder(name, IDS, 7, D, "concat"),
    "qr_product": lambda name: QuotientRemainder(name, IDS, 7, D, "product"),
    "unified": lambda name: Unified(name, 31, D, 4),
    "frequency_split": lambda name: FrequencySplit(name, 20, 9, D),
    "signed": Signed,
    "packed": Packed,
}
Bags = Sequence[Sequence[int]]


def jagged(bags: dict[str, Bags], weights: dict[str, Sequence[Sequence[float]]] | None = None) -> Any:
    """Make a batch; features that `weights` leaves out weigh 1."""
    flat = None
    if weights is not None:
        rows = [weights.get(key, [[1.0] * len(bag) for bag in bags[key]]) for key in bags]
        flat = torch.tensor([w for feature in rows for bag in feature for w in bag], dtype=torch.float32)
    return KeyedJaggedTensor.from_lengths_sync(
        keys=list(bags),
        values=torch.tensor([i for rows in bags.values() for bag in rows for i in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for rows in bags.values() for bag in rows], dtype=torch.int32),
        weights=flat,
    )


def tables_of(engine: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.split("embedding_bags.")[1].removesuffix(".weight"): parameter
        for name, parameter in engine.named_parameters()
        if "embedding_bags." in name
    }


def oracle(field: Field, combine: nn.Module, tables: dict[str, Tensor], ids: Bags, weights: Any) -> Tensor:
    """One id at a time: look it up, combine, weigh; then sum the bag and divide. A sequence is not summed."""
    bags = []
    for bag, bag_weights in zip(ids, weights, strict=True):
        vectors = [torch.zeros(0, D, dtype=torch.float64)]
        for i, weight in zip(bag, bag_weights, strict=True):
            at = np.array([i])
            looked_up = []
            for item in field.scheme.rows(at):
                factor = 1 if item.weights is None else torch.from_numpy(item.weights[0])[:, None].double()
                looked_up.append(
                    (tables[item.table][torch.from_numpy(item.rows[0])] * factor).sum(0, keepdim=True)
                )
            aux = field.scheme.aux(at)
            vectors.append(combine(looked_up, *(() if aux is None else (torch.from_numpy(aux),))) * weight)
        total = sum(bag_weights) if field.weighted else len(bag)
        together = torch.cat(vectors)
        if field.pooling != "none":
            together = together.sum(dim=0, keepdim=True)
        if field.pooling == "mean":
            together = together / total if total else together * 0
        bags.append(together)
    return torch.cat(bags)


def compare(fields: Sequence[Field], bags: dict[str, Bags], weights: Any = None) -> None:
    """Check outputs, and the gradients of every table and dense parameter, against the oracle in float64."""
    torch.manual_seed(0)
    engine = EmbeddingEngine(fields)
    tables = {name: p.detach().double().requires_grad_() for name, p in tables_of(engine).items()}
    combines = [field.scheme.combine().double() for field in fields]
    ones = {key: [[1.0] * len(bag) for bag in rows] for key, rows in bags.items()}
    weights_of = ones | (weights or {})
    out = engine(jagged(bags, weights))
    loss, expected_loss = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    for field, combine in zip(fields, combines, strict=True):
        expected = oracle(field, combine, tables, bags[field.feature], weights_of[field.feature])
        if field.pooling == "none":
            vectors = out.sequences[field.feature].values()
            lengths = [len(bag) for bag in bags[field.feature]]
            assert out.sequences[field.feature].lengths().tolist() == lengths
            assert field.feature not in out.keys()  # noqa: SIM118
        else:
            vectors = out[field.feature]
        torch.testing.assert_close(vectors.double(), expected, rtol=1e-5, atol=1e-7)
        probe = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
        loss, expected_loss = loss + (vectors * probe).sum(), expected_loss + (expected * probe).sum()
    loss.backward()
    if expected_loss.requires_grad:  # else no id was looked up
        expected_loss.backward()
    for name, parameter in tables_of(engine).items():
        expected_grad = tables[name].grad
        if expected_grad is None:
            expected_grad = torch.zeros_like(tables[name])
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=1e-5)
    for actual, exact in zip(
        engine.combiner.combines.parameters(), nn.ModuleList(combines).parameters(), strict=True
    ):
        if exact.grad is not None:
            assert actual.grad is not None
            torch.testing.assert_close(actual.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


BAGS: Bags = [[3, 3, 49], [], [0], [7, 14, 21, 28], []]
FACTORS = [[0.5, -2.0, 1.5], [], [3.0], [1.0, 0.0, 2.5, -0.25], []]
ONES: Bags = [[5], [0], [49], [5], [17]]


# ---- vectors


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bags_and_single_ids_equal_the_oracle(scheme: str, pooling: Any) -> None:
    make = SCHEMES[scheme]
    fields = [Field(make("genre"), pooling, multivalued=True), Field(make("user"), "mean")]
    compare(fields, {"genre": BAGS, "user": ONES})


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weighted_bags_equal_the_oracle(scheme: str, pooling: Any) -> None:
    """Also of single ids: a product of two rows is weighted once, and their mean is the id's own vector."""
    make = SCHEMES[scheme]
    fields = [
        Field(make("genre"), pooling, multivalued=True, weighted=True),
        Field(make("user"), weighted=True),
        Field(make("item"), "mean", weighted=True),
        Field(make("tag"), multivalued=True),
    ]
    single = [[2.0], [-1.0], [0.0], [0.5], [1.0]]
    bags = {"genre": BAGS, "user": ONES, "item": ONES, "tag": BAGS}
    compare(fields, bags, {"genre": FACTORS, "user": single, "item": single})


@pytest.mark.parametrize("scheme", ["full", "qr_product"])
def test_a_mean_of_total_weight_zero_is_zero(scheme: str) -> None:
    field = Field(SCHEMES[scheme]("genre"), "mean", multivalued=True, weighted=True)
    engine = EmbeddingEngine([field])
    out = engine(jagged({"genre": [[1, 2], [3], []]}, {"genre": [[2.0, -2.0], [0.0], []]})).values()
    assert not out.any()
    out.sum().backward()
    assert all(not p.grad.any() for p in engine.parameters() if p.grad is not None), "and no NaN"


@pytest.mark.parametrize("seed", range(4))
def test_fields_that_share_a_table_may_be_pooled_unpooled_and_weighted(seed: int) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"pooling": "mean"},
        {"multivalued": True},
        {"multivalued": True, "pooling": "mean"},
        {"multivalued": True, "weighted": True},
        {"multivalued": True, "pooling": "mean", "weighted": True},
        {"multivalued": True, "pooling": "none"},
        {"multivalued": True, "pooling": "none", "weighted": True},
        {"weighted": True},
    ]
    random = np.random.default_rng(seed)
    chosen = [kinds[i] for i in random.permutation(len(kinds))[: [2, 4, 6, 9][seed]]]
    fields = [Field(Unified(f"f{i}", 31, D, 4), **kind) for i, kind in enumerate(chosen)]
    fields.append(Field(QuotientRemainder("own", IDS, 7, D, "product"), multivalued=True))
    bags: dict[str, Bags] = {}
    for field in fields:
        lengths = random.integers(0, 4, 6) if field.multivalued else np.ones(6, int)
        bags[field.feature] = [random.integers(0, IDS, n).tolist() for n in lengths]
    weights = {
        field.feature: [random.normal(size=len(bag)).round(2).tolist() for bag in bags[field.feature]]
        for field in fields
        if field.weighted
    }
    compare(fields, bags, weights or None)
    assert [tuple(p.shape) for n, p in tables_of(EmbeddingEngine(fields)).items() if "own" not in n] == [
        (31, 4)
    ]


@settings(max_examples=40, deadline=None)
@given(
    bags=st.lists(st.lists(st.integers(0, IDS - 1), max_size=5), max_size=6),
    scheme=st.sampled_from(sorted(SCHEMES)),
    pooling=st.sampled_from(["sum", "mean", "none"]),
    weight=st.one_of(st.none(), st.floats(-4, 4, width=32).filter(lambda w: w == 0 or abs(w) > 1e-3)),
)
def test_any_bags_equal_the_oracle(bags: Bags, scheme: str, pooling: Any, weight: float | None) -> None:
    field = Field(SCHEMES[scheme]("genre"), pooling, multivalued=True, weighted=weight is not None)
    if bags:
        weights = None if weight is None else {"genre": [[weight] * len(bag) for bag in bags]}
        compare([field], {"genre": bags}, weights)


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_empty_batch_and_empty_bags_have_vectors_and_a_backward(scheme: str, pooling: Any) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("genre"), pooling, multivalued=True)])
    for bags, rows in (([], 0), ([[], []], 2)):
        out = engine(jagged({"genre": bags}))
        if pooling == "none":
            assert out.sequences["genre"].values().shape == (0, D)
            assert out.values().shape == (rows, 0)
            out.sequences["genre"].values().sum().backward()
        else:
            assert torch.equal(out.values(), torch.zeros(rows, D))
            out.values().sum().backward()
    single = EmbeddingEngine([Field(SCHEMES[scheme]("user"))])
    assert single(jagged({"user": []})).values().shape == (0, D)


def test_a_product_is_not_pooled_before_it_is_combined() -> None:
    """The bug of the first public quotient-remainder: (Q1+Q2)·(R1+R2) in place of Q1·R1 + Q2·R2."""
    scheme = QuotientRemainder("genre", IDS, 7, D, "product")
    engine = EmbeddingEngine([Field(scheme, multivalued=True)])
    tables = {name: value.detach().numpy() for name, value in tables_of(engine).items()}
    bag = np.array([3, 11])
    wrong = scheme.combine_numpy([tables[x.table][x.rows[:, 0]].sum(axis=0) for x in scheme.rows(bag)])
    right = engine(jagged({"genre": [[3, 11]]})).values().detach().numpy()[0]
    np.testing.assert_allclose(right, lookup(scheme, tables, bag).sum(axis=0), rtol=1e-5)
    assert not np.allclose(right, wrong)


@pytest.mark.parametrize("scheme", ["hash", "unified"])
def test_hashed_schemes_take_any_64_bit_id(scheme: str) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("user"))])
    ids = [-1, 2**53 + 1, 2**53, -(2**63), 2**63 - 1]
    out = engine(jagged({"user": [[i] for i in ids]})).values()
    tables = {name: value.detach().numpy() for name, value in tables_of(engine).items()}
    np.testing.assert_array_equal(
        out.detach().numpy(), lookup(SCHEMES[scheme]("user"), tables, np.array(ids, np.int64))
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_vectors_of_ids_are_those_of_a_batch(scheme: str) -> None:
    engine = EmbeddingEngine([Field(SCHEMES[scheme]("user"))])
    tables = {name: value.detach().numpy() for name, value in tables_of(engine).items()}
    vectors = engine.vectors_of("user", np.array([5, 0, 49]), tables)
    expected = engine(jagged({"user": [[5], [0], [49]]})).values().detach().numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-8)


def test_vectors_of_ids_outside_the_space_follow_the_policy() -> None:
    tables = {"user/full": np.arange(40, dtype=np.float32).reshape(5, 8)}
    with pytest.raises(ValueError, match=r"feature 'user': id -1 at position 1 is outside 0\.\.4"):
        EmbeddingEngine([Field(Full("user", 5, D))]).vectors_of("user", np.array([2, -1]), tables)
    known = EmbeddingEngine([Field(Full("user", 5, D), out_of_range="oov", oov_id=3)])
    assert np.array_equal(known.vectors_of("user", np.array([2, -1]), tables), tables["user/full"][[2, 3]])


def test_a_weight_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="feature 'user': weight inf at position 1 must be finite"):
        engine_for(weighted=True)(raw([1, 1, 1, 1], 4, torch.tensor([1, 1e39, 1, 1], dtype=torch.float64)))


def test_no_gradient_flows_into_weights() -> None:
    for pooling in ("sum", "none"):
        engine = EmbeddingEngine([Field(Full("a", IDS, D), pooling, multivalued=True, weighted=True)])  # type: ignore[arg-type]
        weights = torch.tensor([1.0, 2.0], requires_grad=True)
        ids = KeyedJaggedTensor(["a"], torch.tensor([1, 2]), weights, torch.tensor([2]))
        out = engine(ids)
        (out.values() if pooling == "sum" else out.sequences["a"].values()).sum().backward()
        assert weights.grad is None


def test_weights_of_other_float_types_are_taken_as_float32() -> None:
    engine = EmbeddingEngine([Field(Full("a", IDS, D), multivalued=True, weighted=True)])
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    out = engine(KeyedJaggedTensor(["a"], torch.tensor([1, 2]), weights, torch.tensor([2]))).values()
    assert torch.equal(out, engine(jagged({"a": [[1, 2]]}, {"a": [[0.5, 2.0]]})).values())


# ---- outputs


def test_outputs_are_concatenated_stacked_or_keyed_in_the_order_of_the_fields() -> None:
    fields = [
        Field(Full("a", 9, 8)),
        Field(Full("h", 9, 4), "none", multivalued=True),
        Field(Hash("b", 9, 8)),
    ]
    out = EmbeddingEngine(fields)(jagged({"b": [[1], [2]], "h": [[], [1, 2]], "a": [[3], [4]]}))
    assert out.keys() == ["a", "b"]
    assert list(out.sequences) == ["h"]
    assert torch.equal(out.values(), torch.cat([out["a"], out["b"]], dim=1))
    assert torch.equal(out.stacked(), torch.stack([out["a"], out["b"]], dim=1))
    keyed = out.keyed_tensor()
    assert keyed.keys() == ["a", "b"]
    assert torch.equal(keyed["b"], out["b"])
    assert torch.equal(keyed.values(), out.values())
    with pytest.raises(KeyError, match="'h' is none of the pooled features"):
        out["h"]


def test_widths_that_differ_cannot_be_stacked() -> None:
    engine = EmbeddingEngine([Field(Full("a", 9, 8)), Field(Full("b", 9, 4))])
    out = engine(jagged({"a": [[3]], "b": [[4]]}))
    assert out.values().shape == (1, 12)
    assert [out[key].shape[1] for key in out.keys()] == engine.embedding_dims == [8, 4]  # noqa: SIM118
    with pytest.raises(
        ValueError, match=r"different widths cannot be stacked: \{'a': 8, 'b': 4\}; use values"
    ):
        out.stacked()


def test_rows_per_sample_count_every_key_of_a_table() -> None:
    fields = [Field(Unified("a", 31, D, 4)), Field(Unified("b", 31, D, 4), multivalued=True)]
    engine = EmbeddingEngine([*fields, Field(MultiHash("c", 13, D, 3), multivalued=True)])
    assert engine.rows_per_sample({"b": 2.5, "c": 4}) == {
        "unified/shared": [1, 1, 2.5, 2.5],
        "c/multi_hash": [12],
    }


# ---- what is refused

BOTH = ("user", "genre")


def engine_for(scheme: str = "full", **more: Any) -> EmbeddingEngine:
    return EmbeddingEngine(
        [Field(SCHEMES[scheme]("user"), **more), Field(Hash("genre", 9, D), multivalued=True)]
    )


@pytest.mark.parametrize("bad", [-1, IDS, 2**53 + 1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("scheme", ["full", "qr_sum", "qr_product", "packed"])
def test_an_id_outside_a_dense_id_space_is_named(scheme: str, bad: int) -> None:
    with pytest.raises(ValueError, match=rf"feature 'user': id {bad} at position 1 is outside 0\.\.49"):
        engine_for(scheme)(jagged({"user": [[4], [bad]], "genre": [[], []]}))


def test_an_id_outside_is_read_as_oov_or_hashed_where_the_field_says_so() -> None:
    torch.manual_seed(0)
    ids = [[-3], [7], [2**53], [IDS]]
    by_policy = {}
    for policy, oov in (("oov", 2), ("hash", None)):
        field = Field(Full("user", IDS, D), out_of_range=policy, oov_id=oov)  # type: ignore[arg-type]
        engine = EmbeddingEngine([field])
        with torch.no_grad():
            tables_of(engine)["user/full"].copy_(torch.arange(IDS)[:, None].expand(IDS, D))
        batch = jagged({"user": ids})
        by_policy[policy] = engine(batch).values()[:, 0].tolist()
        assert batch.values().tolist() == [i for bag in ids for i in bag], "the caller's ids stay"
    assert by_policy["oov"] == [2, 7, 2, 2]
    assert by_policy["hash"][1] == 7
    assert len({by_policy["hash"][i] for i in (0, 2, 3)}) > 1


@pytest.mark.parametrize("dtype", [torch.uint64, torch.int32, torch.uint8, torch.float32, torch.float64])
def test_ids_that_are_not_int64_are_refused(dtype: torch.dtype) -> None:
    ids = KeyedJaggedTensor(["user"], torch.tensor([1]).to(dtype), lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match=rf"feature 'user': ids are {dtype}, not torch\.int64"):
        EmbeddingEngine([Field(Hash("user", 10, D))])(ids)


def raw(
    lengths: list[int], ids: int, weights: Tensor | None = None, keys: Sequence[str] = BOTH, **more: Any
) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(list(keys), torch.arange(ids), weights, torch.tensor(lengths), **more)


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (
            jagged({"usr": [[1]], "genre": [[]]}),
            r"lacks features \['user'\] and has unknown features \['usr'\]",
        ),
        (jagged({"user": [[1]]}), r"lacks features \['genre'\] and has unknown features \[\]"),
        (
            jagged({"user": [[1]], "genre": [[]], "x": [[]], "a": [[]]}),
            r"lacks features \[\] and .* \['a', 'x'\]",
        ),
        (
            raw([1, 1, 0], 2, keys=("user", "user", "genre")),
            "names a feature twice: .*'user', 'user', 'genre'",
        ),
        (raw([1, 1, 1, 2], 4), "lengths add up to 5, but it holds 4 ids"),
        (raw([1, 1, 1, 2], 6), "lengths add up to 5, but it holds 6 ids"),
        (raw([1, 1, 3, -1], 4), "feature 'genre': sample 1 has length -1"),
        (raw([1, 1, 1], 3), "the batch's 3 lengths are not as many for each of 2 features"),
        (
            raw([1, 1, 1, 1], 4, stride_per_key_per_rank=[[1], [3]]),
            "the batch's 4 lengths are not as many for each of 2 features",
        ),
        (
            jagged({"user": [[1], [1, 2]], "genre": [[], []]}),
            "'user' is single-valued, but sample 1 holds 2 ids",
        ),
        (jagged({"genre": [[], []], "user": [[1], []]}), "'user' is single-valued, but sample 1 holds 0 ids"),
        (raw([1, 1], 2, torch.ones(2)), "the bags carry weights, but no field is declared weighted"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_name(ids: KeyedJaggedTensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        engine_for()(ids)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (None, r"features \['user'\] are declared weighted, but the batch carries no weights"),
        ([1.0, float("nan"), 1, 1], r"feature 'user': weight nan at position 1 must be finite"),
        ([float("-inf"), 1, 1, 1], r"feature 'user': weight -inf at position 0 must be finite"),
        (
            [2.0, 3.0, 1.0, 0.5],
            r"feature 'genre': weight 0\.5 at position 1 must be 1, for the feature is not",
        ),
        ([1.0, 1.0, float("nan"), 1], r"feature 'genre': weight nan at position 0 must be 1"),
        ([1.0, 1.0, 1.0], "lengths add up to 4, but it holds 3 weights"),
        ([1.0] * 5, "lengths add up to 4, but it holds 5 weights"),
        ([[1.0, 1.0]] * 4, r"lengths add up to 4, but it holds an array \[4, 2\] of weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(weights: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        engine_for(weighted=True)(raw([1, 1, 1, 1], 4, None if weights is None else torch.tensor(weights)))


def test_fields_and_tables_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        EmbeddingEngine([Field(Hash("user", 10, D)), Field(Hash("user", 10, D))])
    with pytest.raises(
        ValueError, match="feature 'a': pooling 'none' makes a sequence: declare it multivalued"
    ):
        Field(Full("a", 5, D), "none")
    with pytest.raises(
        ValueError, match=r"table 'a/full': embedding_dim 6 is not a positive multiple of 4.*use 8"
    ):
        EmbeddingEngine([Field(Full("a", 5, 6))])
    for rows in (0, 2**31):
        with pytest.raises(
            ValueError, match=rf"table 'a/full': num_embeddings {rows} is outside 1\.\.2\^31-1"
        ):
            EmbeddingEngine([Field(Full("a", rows, 4))], torch.device("meta"))
    other = dataclasses.replace(Unified("b", 31, D, 4), num_embeddings=32)
    with pytest.raises(
        ValueError, match=r"table 'unified/shared' is declared as .* by feature 'a' and as .* 'b'"
    ):
        EmbeddingEngine([Field(Unified("a", 31, D, 4)), Field(other)])
    with pytest.raises(ValueError, match="the model holds 0 embedding engines, not one"):
        engine_of(nn.Linear(1, 1))


def test_a_feature_may_have_a_dot_in_its_name() -> None:
    """Not if a table is named after it: a module's name holds none."""
    engine = EmbeddingEngine([Field(Unified("a.b", 31, D, 4), "none", multivalued=True)])
    assert engine(jagged({"a.b": [[1, 2]]})).sequences["a.b"].values().shape == (2, D)
    with pytest.raises(
        ValueError, match=r"table name 'a\.b/full': a name must be non-empty and hold no '\.'"
    ):
        EmbeddingEngine([Field(Full("a.b", 5, D))])


# ---- in somebody's model


def test_someone_elses_training_loop() -> None:
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


def some_fields(make: Any) -> list[Field]:
    scheme: Scheme = make("genre")
    return [
        Field(scheme, "mean", multivalued=True, weighted=True),
        Field(make("user")),
        Field(make("history"), "none", multivalued=True),
    ]


def sharded_and_plain(make: Any, device: torch.device) -> None:
    """Check that outputs are the same, and after two steps of SGD the tables."""
    model = shard(
        nn.ModuleList([EmbeddingEngine(some_fields(make), torch.device("meta"))]),
        TableOptimizer("sgd", lr=0.5),
        device,
        seed=0,
    )
    plain = EmbeddingEngine(some_fields(make))
    with torch.no_grad():
        for piece in local_shards(model):
            tables_of(plain)[piece.table].copy_(piece.weight)
    optimizer = torch.optim.SGD(tables_of(plain).values(), lr=0.5)
    ids = jagged({"genre": BAGS, "user": ONES, "history": BAGS}, {"genre": FACTORS})
    for _ in range(2):
        sharded, expected = engine_of(model)(ids.to(device)), plain(ids)
        for one, other in (
            (sharded.values(), expected.values()),
            (sharded.sequences["history"].values(), expected.sequences["history"].values()),
        ):
            assert one.device.type == device.type
            torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
        optimizer.zero_grad()
        for out in (sharded, expected):
            (out.values().square().sum() + out.sequences["history"].values().square().sum()).backward()
        optimizer.step()
    for piece in local_shards(model):
        torch.testing.assert_close(
            piece.weight.cpu(), tables_of(plain)[piece.table].detach(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharded_on_one_rank_equals_plain(group: None, scheme: str) -> None:
    sharded_and_plain(SCHEMES[scheme], torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharded_on_a_gpu_equals_plain_on_the_cpu(group: None, scheme: str) -> None:
    sharded_and_plain(SCHEMES[scheme], torch.device("cuda"))
