"""One suite over every scheme; a new scheme is one line of SCHEMES."""

import dataclasses
import itertools
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, salt
from recsys_tables import Full, Hash, QuotientRemainder, Scheme, Unified
from recsys_tables.lookup import lookup
from recsys_tables.scheme import MAX_ROWS, Table, check_ids, unique_tables

N = 1000
SCHEMES: dict[str, Scheme] = {
    "full": Full("item", N, 16),
    "hash": Hash("item", 97, 16),
    "hash_one_row": Hash("item", 1, 16),
    "qr_sum": QuotientRemainder("item", N, 31, 16, "sum"),
    "qr_concat": QuotientRemainder("item", N, 31, 16, "concat"),
    "qr_product": QuotientRemainder("item", N, 31, 16, "product"),
    "qr_divisor_1": QuotientRemainder("item", N, 1, 16),
    "qr_divisor_n": QuotientRemainder("item", N, N, 16),
    "unified": Unified("item", 211, 16, 4),
    "unified_one_chunk": Unified("item", 211, 16, 16),
    "unified_12_chunks": Unified("item", 211, 48, 4),
}
EXTREMES = [MISSING_ID, -(2**63) + 1, -(2**53) - 1, -1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))


def ids_of(scheme: Scheme) -> st.SearchStrategy[np.ndarray]:
    """Lists of ids of the scheme's space with duplicates, empty ones too."""
    one = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES)
    if scheme.num_ids is not None:
        one = st.integers(0, scheme.num_ids - 1) | st.sampled_from([0, scheme.num_ids - 1])
    lists = st.lists(one, max_size=12) | one.map(lambda i: [i, i])
    return lists.map(lambda ids: np.array(ids, np.int64))


def weights(scheme: Scheme, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        t.name: random.uniform(-t.init_bound, t.init_bound, (t.num_embeddings, t.embedding_dim)).astype(
            np.float32
        )
        for t in scheme.tables()
    }


@every_scheme
def test_is_a_frozen_picklable_value(scheme: Any) -> None:
    assert pickle.loads(pickle.dumps(scheme)) == scheme
    assert hash(scheme) == hash(dataclasses.replace(scheme))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.feature = "other"


@every_scheme
@settings(max_examples=30)
@given(data=st.data())
def test_rows_lie_in_their_tables_and_depend_on_the_id_alone(scheme: Scheme, data: st.DataObject) -> None:
    ids = data.draw(ids_of(scheme))
    kept = ids.copy()
    tables = {table.name: table for table in scheme.tables()}
    found = scheme.rows(ids)
    assert np.array_equal(ids, kept), "the caller's ids stay"
    assert {item.table for item in found} == set(tables)
    for item in found:
        assert item.rows.dtype == np.int64
        assert item.rows.ndim == 2
        assert len(item.rows) == len(ids)
        assert (item.rows >= 0).all()
        assert (item.rows < tables[item.table].num_embeddings).all()
    for position in range(len(ids)):
        alone = scheme.rows(ids[position : position + 1])
        assert all(np.array_equal(a.rows[0], b.rows[position]) for a, b in zip(alone, found, strict=True))


@every_scheme
@settings(max_examples=30)
@given(data=st.data())
def test_numpy_and_torch_give_the_same_rows(scheme: Scheme, data: st.DataObject) -> None:
    ids = data.draw(ids_of(scheme))
    for item, other in zip(scheme.rows(ids), scheme.rows(torch.from_numpy(ids)), strict=True):
        assert isinstance(other.rows, torch.Tensor)
        assert other.rows.dtype == torch.int64
        assert (item.table, item.rows.tolist()) == (other.table, other.rows.tolist())


@every_scheme
def test_an_empty_array_shows_the_structure(scheme: Scheme) -> None:
    structure = [(item.table, item.rows.shape[1]) for item in scheme.rows(np.empty(0, np.int64))]
    assert structure == [(item.table, item.rows.shape[1]) for item in scheme.rows(np.array([5, 7]))]


@every_scheme
def test_combine_equals_combine_numpy_and_is_linear_if_it_says_so(scheme: Scheme) -> None:
    random = np.random.default_rng(3)
    dims = {table.name: table.embedding_dim for table in scheme.tables()}
    shape = [(9, dims[item.table]) for item in scheme.rows(np.array([1]))]
    vectors = [random.normal(size=s).astype(np.float32) for s in shape]
    out = scheme.combine_numpy(vectors)
    module = scheme.combine()
    assert out.shape == (9, scheme.embedding_dim)
    assert out.dtype == np.float32
    np.testing.assert_allclose(module([torch.from_numpy(v) for v in vectors]).numpy(), out, rtol=1e-6)
    pooled = scheme.combine_numpy([v.sum(axis=0, keepdims=True) for v in vectors])
    assert np.allclose(pooled, out.sum(axis=0), rtol=1e-4, atol=1e-4) == scheme.linear


@every_scheme
def test_lookup_is_rows_then_combine(scheme: Scheme) -> None:
    tables, ids = weights(scheme), np.array([3, 0, 3, 999])
    vectors = lookup(scheme, tables, ids)
    assert vectors.shape == (4, scheme.embedding_dim)
    assert np.array_equal(vectors[0], vectors[2])
    assert lookup(scheme, tables, ids[:0]).shape == (0, scheme.embedding_dim)


@every_scheme
def test_a_composed_vector_starts_with_the_variance_of_a_full_table(scheme: Any) -> None:
    """An id's vector is U(±b) in a full table: variance b²/3, whatever the scheme."""
    scheme = dataclasses.replace(scheme, init_bound=0.1)
    if scheme.num_ids is not None and scheme.num_ids == N and isinstance(scheme, QuotientRemainder):
        scheme = dataclasses.replace(scheme, num_ids=200 * 200, divisor=200)
    elif not isinstance(scheme, Full):
        scheme = dataclasses.replace(scheme, num_embeddings=4000)
    ids = np.arange(scheme.num_ids or 20_000)
    vectors = lookup(scheme, weights(scheme, 1), ids).astype(np.float64)
    assert vectors.mean() == pytest.approx(0, abs=0.005)
    assert vectors.var() == pytest.approx(0.1**2 / 3, rel=0.1)


@pytest.mark.parametrize("operation", ["sum", "concat", "product"])
@settings(max_examples=40)
@given(num_ids=st.integers(1, 3000), data=st.data())
def test_quotient_and_remainder_name_every_id_once(operation: Any, num_ids: int, data: st.DataObject) -> None:
    divisor = data.draw(st.integers(1, num_ids))
    scheme = QuotientRemainder("item", num_ids, divisor, 16, operation)
    quotient, remainder = scheme.rows(np.arange(num_ids))
    pairs = np.concatenate([quotient.rows, remainder.rows], axis=1)
    assert len(np.unique(pairs, axis=0)) == num_ids
    assert [t.num_embeddings for t in scheme.tables()] == [quotient.rows.max() + 1, remainder.rows.max() + 1]


def test_quotients_beyond_float_precision() -> None:
    """Float division aliases ids from 2^24 (float32) or 2^53 (float64) on."""
    scheme = QuotientRemainder("item", 2**60, 2**30 + 1, 4)
    ids = np.array([2**53 + 1, 2**60 - 1, 2**24 + 1])
    quotient, remainder = scheme.rows(ids)
    exact = [divmod(int(i), 2**30 + 1) for i in ids]
    assert [*zip(quotient.rows[:, 0].tolist(), remainder.rows[:, 0].tolist(), strict=True)] == exact


def test_hashed_rows_come_from_the_name_and_not_from_the_order() -> None:
    ids = np.arange(5000)

    def rows(scheme: Scheme) -> list[np.ndarray]:
        return [item.rows for item in scheme.rows(ids)]

    a, b = Unified("a", 64, 16, 4), Unified("b", 64, 16, 4)
    before = rows(a)
    assert all(np.array_equal(x, y) for x, y in zip(before, rows(Unified("a", 64, 16, 4)), strict=True))
    every = [*before, *rows(b), *rows(Hash("c", 64, 16))]
    for x, y in itertools.combinations(every, 2):
        assert (x == y).mean() == pytest.approx(1 / 64, abs=0.01), "two salts, two independent hashes"
    assert np.array_equal(before[0], rows(Hash("a", 64, 16))[0]), "lookup 0 of a feature has one salt"
    assert len({salt("a", j) for j in range(100)} | {salt("b", j) for j in range(100)}) == 200


def test_chunks_stay_in_numeric_order_beyond_ten() -> None:
    scheme = Unified("item", 211, 48, 4)
    one_row = {"unified/shared": np.arange(211, dtype=np.float32).repeat(4).reshape(211, 4)}
    ids = np.array([1, 2, 3])
    expected = np.stack([item.rows[:, 0] for item in scheme.rows(ids)], axis=1).repeat(4, axis=1)
    assert np.array_equal(lookup(scheme, one_row, ids), expected)

    from torchrec import KeyedJaggedTensor

    from recsys_tables.engine import EmbeddingEngine, Field

    engine = EmbeddingEngine([Field(scheme)])
    with torch.no_grad():
        next(engine.parameters()).copy_(torch.from_numpy(one_row["unified/shared"]))
    kjt = KeyedJaggedTensor.from_lengths_sync(
        ["item"], torch.from_numpy(ids), torch.ones(3, dtype=torch.int32)
    )
    assert np.array_equal(engine(kjt).values().detach().numpy(), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Full("f", 10, 6), r"'f/full': embedding_dim 6 is not a positive multiple of 4.*use 8"),
        (lambda: Full("f", 10, 0), r"embedding_dim 0 is not a positive multiple of 4.*use 4"),
        (lambda: Full("f", 0, 8), r"'f/full': num_embeddings 0 is outside 1\.\.2\^31-1"),
        (lambda: Full("f", 2**31, 8), r"num_embeddings 2147483648 is outside"),
        (lambda: Full("a.b", 10, 8), r"'a\.b/full': a name must be non-empty and hold no '\.'"),
        (lambda: Hash("f", 0, 8), r"'f/hash': num_embeddings 0"),
        (lambda: Hash("f", 2**31, 8), r"'f/hash': num_embeddings 2147483648"),
        (lambda: Unified("f", 10, 8, 2), r"'unified/shared': embedding_dim 2"),
        (lambda: Unified("f", 10, 8, 3), r"feature 'f': embedding_dim 8 is not a whole number of chunks"),
        (lambda: Unified("f", 10, 8, 0), r"chunks of chunk_dim 0"),
        (lambda: QuotientRemainder("f", 10, 3, 12, "concat"), r"'f/quotient': embedding_dim 6"),
        (lambda: QuotientRemainder("f", 10, 0, 8), r"feature 'f': divisor 0 is outside 1\.\.10"),
        (lambda: QuotientRemainder("f", 10, 11, 8), r"divisor 11 is outside 1\.\.10"),
    ],
)
def test_tables_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().tables()


def test_the_largest_table_is_allowed() -> None:
    assert Table("t", MAX_ROWS - 1, 4, 0.1).parameter_bytes == 16 * (2**31 - 1)


def test_features_that_share_a_table_must_agree() -> None:
    a, b = Unified("a", 10, 8, 4), Unified("b", 10, 16, 4)
    assert unique_tables([a, b]) == a.tables()
    with pytest.raises(ValueError, match=r"'unified/shared' is declared as .* by feature 'a' and as .* 'c'"):
        unique_tables([a, Unified("c", 11, 8, 4)])


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_ids_outside_a_dense_space(kind: Any) -> None:
    scheme = SCHEMES["qr_sum"]
    check_ids(scheme, kind([0, 999]))
    check_ids(SCHEMES["hash"], kind([-1, 2**63 - 1]))
    for bad in (-1, N, 2**53 + 1, MISSING_ID):
        with pytest.raises(ValueError, match=rf"'item': id {bad} at position 2 is outside 0\.\.999"):
            check_ids(scheme, kind([4, 5, bad, bad]))
    with pytest.raises(ValueError, match="at position 0 is outside"):
        lookup(scheme, weights(scheme), np.array([-1]))


def test_rows_need_no_torch() -> None:
    code = """
import sys
import numpy as np
import recsys_tables as t
from recsys_tables.lookup import lookup
import recsys_tables.plan, recsys_tables.bytes, recsys_tables.config
ids = np.array([1, 2])
for s in (t.Full("f", 9, 8), t.Hash("f", 9, 8), t.QuotientRemainder("f", 9, 3, 8), t.Unified("f", 9, 8, 4)):
    lookup(s, {x.name: np.ones((x.num_embeddings, x.embedding_dim), np.float32) for x in s.tables()}, ids)
print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
