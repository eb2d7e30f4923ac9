"""Complementary partitions: every id has a tuple of rows of its own (KDD 2020, definition 1)."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tables import ChineseRemainder, MixedRadix, PathBased, QuotientRemainder, TensorTrain
from recsys_tables.scheme import Scheme
from recsys_tables.schemes.chinese_remainder import coprime_moduli


def classes(scheme: Scheme, ids: np.ndarray) -> np.ndarray:
    """Return the tuple of rows of each id, and its path."""
    columns = [item.rows for item in scheme.rows(ids)]
    aux = scheme.aux(ids)
    return np.concatenate(columns if aux is None else [*columns, aux], axis=1)


@st.composite
def partitions(draw: st.DrawFn) -> Scheme:
    num_ids = draw(st.integers(1, 3000))
    radix = st.integers(1, 60)
    kind = draw(st.sampled_from(["radix", "chinese", "path", "train"]))
    if kind == "radix":
        return MixedRadix("item", num_ids, tuple(draw(st.lists(radix, min_size=1, max_size=4))), 16, "sum")
    if kind == "chinese":
        count, smallest = draw(st.integers(1, 4)), draw(st.integers(1, 40))
        return ChineseRemainder("item", num_ids, coprime_moduli(num_ids, count, smallest), 16)
    if kind == "path":
        return PathBased("item", num_ids, draw(st.integers(1, num_ids)), 16)
    return TensorTrain("item", num_ids, (draw(radix), draw(radix)), 16, 2)


@settings(max_examples=150)
@given(scheme=partitions())
def test_rows_name_every_id_once_and_no_row_is_beyond_reach(scheme: Any) -> None:
    rows_of_ids = classes(scheme, np.arange(scheme.num_ids))
    assert len(np.unique(rows_of_ids, axis=0)) == scheme.num_ids
    sizes = [table.num_embeddings for table in scheme.tables()]
    if isinstance(scheme, PathBased):
        sizes.append(scheme.num_paths)
    assert (rows_of_ids.max(axis=0) < sizes).all()
    if isinstance(scheme, MixedRadix | TensorTrain):
        assert rows_of_ids[:, 0].max() == sizes[0] - 1, "the first digit has no spare row"


def test_one_radix_is_quotient_remainder() -> None:
    ids = np.arange(1000)
    mixed, pair = MixedRadix("item", 1000, (31,), 16), QuotientRemainder("item", 1000, 31, 16)
    assert np.array_equal(classes(mixed, ids), classes(pair, ids))
    assert [(t.num_embeddings, t.init_bound) for t in mixed.tables()] == [
        (t.num_embeddings, t.init_bound) for t in pair.tables()
    ]


BIG = [0, 2**24 + 1, 2**53 + 1, 2**60 - 1]


@pytest.mark.parametrize(
    "scheme",
    [
        MixedRadix("item", 2**60, (2**30 + 1, 2**20 + 7), 8),
        MixedRadix("item", 2**60, (2**30, 2**30, 2**30), 8),  # their product is beyond int64
        ChineseRemainder("item", 2**60, (2**30 - 1, 2**30, 2**30 + 1), 8),
        PathBased("item", 2**60, 2**30 + 1, 8),
        TensorTrain("item", 2**60, (2**30, 2**20 + 7), 8, 2),
    ],
    ids=lambda s: type(s).__name__,
)
def test_no_id_passes_through_a_float(scheme: Any) -> None:
    """A float quotient aliases ids from 2^24 (float32) or 2^53 (float64) on."""
    rows_of_ids = classes(scheme, np.array(BIG)).tolist()
    for i, row in zip(BIG, rows_of_ids, strict=True):
        if isinstance(scheme, ChineseRemainder):
            assert row == [i % m for m in scheme.moduli]
        elif isinstance(scheme, PathBased):
            assert row == [i % scheme.divisor, i // scheme.divisor]
        else:
            rebuilt = row[0]
            for digit, radix in zip(row[1:], scheme.radices, strict=True):
                rebuilt = rebuilt * radix + digit
            assert rebuilt == i


@settings(max_examples=60)
@given(num_ids=st.integers(1, 2**62), count=st.integers(2, 8), smallest=st.integers(1, 3000))
def test_coprime_moduli(num_ids: int, count: int, smallest: int) -> None:
    if num_ids > 2**40 and count == 2:
        num_ids >>= 22  # about 2^20 rows each, and quick
    moduli = coprime_moduli(num_ids, count, smallest)
    assert len(moduli) == count
    assert min(moduli) >= smallest
    assert math.lcm(*moduli) == math.prod(moduli) >= num_ids
    assert max(moduli) - min(moduli) <= 120, "about equal"
    root = num_ids ** (1 / count)
    assert min(moduli) <= max(smallest, root) + 1, "no larger than needed"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedRadix("f", 10, (), 8), r"feature 'f': radices \(\) are not one or more"),
        (lambda: MixedRadix("f", 10, (3, 0), 8), r"feature 'f': radices \(3, 0\)"),
        (
            lambda: MixedRadix("f", 10, (2, 2), 16, "concat").tables(),
            r"feature 'f': embedding_dim 16 cannot be concatenated from 3 equal parts",
        ),
        (
            lambda: ChineseRemainder("f", 10, (6, 9), 8),
            r"feature 'f': moduli \(6, 9\): 6 and 9 share the factor 3",
        ),
        (
            lambda: ChineseRemainder("f", 36, (5, 7), 8),
            r"feature 'f': moduli \(5, 7\) tell only 35 of 36 ids apart",
        ),
        (lambda: ChineseRemainder("f", 1, (), 8), r"feature 'f': moduli \(\)"),
        (lambda: PathBased("f", 10, 0, 8), r"feature 'f': divisor 0 is outside 1\.\.10"),
        (lambda: PathBased("f", 10, 11, 8), r"feature 'f': divisor 11 is outside 1\.\.10"),
        (lambda: PathBased("f", 10, 3, 8, 0), r"feature 'f': hidden_dim 0 is not at least 1"),
        (lambda: TensorTrain("f", 10, (3,), 8, 2), r"feature 'f': radices \(3,\) are not two"),
        (lambda: TensorTrain("f", 10, (3, -1), 8, 2), r"feature 'f': radices \(3, -1\)"),
        (lambda: TensorTrain("f", 10, (3, 2), 8, 0), r"feature 'f': rank 0 is not at least 1"),
    ],
)
def test_partitions_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
