"""Ids outside a scheme's space: an error by name, one id for all, or a stable spread; in NumPy and in torch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys_tables import Full, Hash, QuotientRemainder
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.out_of_range import in_range

N = 50
FULL = Full("user", N, 8)
IN_BOTH = pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["numpy", "torch"])
ANY = arrays(np.int64, st.integers(0, 30), elements=st.integers(-(2**63), 2**63 - 1))


@IN_BOTH
@pytest.mark.parametrize("bad", [-1, N, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_an_error_names_feature_position_value_and_way_out(make: Any, bad: int) -> None:
    message = (
        rf"^feature 'user': id {bad} at position 2 is outside 0\.\.49, the ids of its Full scheme; encode it with "
        "the vocabulary the table was built for, or set out_of_range to 'oov' or 'hash'$"
    )
    with pytest.raises(ValueError, match=message):
        in_range(FULL, make([4, 49, bad, 0, bad]), "error", None)


@IN_BOTH
def test_oov_reads_one_id_and_leaves_the_callers_ids_alone(make: Any) -> None:
    ids = make([4, -1, 49, 50, 2**53 + 1])
    assert in_range(FULL, ids, "oov", 7).tolist() == [4, 7, 49, 7, 7]
    assert ids.tolist() == [4, -1, 49, 50, 2**53 + 1]


@pytest.mark.parametrize("policy", ["error", "oov", "hash"])
@IN_BOTH
def test_ids_inside_are_handed_back_as_they_are(make: Any, policy: Any) -> None:
    for ids in (make([0, 49, 3, 3]), make([])):
        assert in_range(FULL, ids, policy, 7 if policy == "oov" else None) is ids


def test_a_hash_is_pinned() -> None:
    """Another hash would silently destroy what was trained for ids outside: raise HASH_VERSION with it."""
    ids = np.array([-1, 50, 51, 10**12, 2**63 - 1])
    assert in_range(FULL, ids, "hash", None).tolist() == [18, 24, 15, 45, 36]


@given(ANY)
def test_a_hash_is_the_same_in_numpy_and_torch_and_inside(ids: np.ndarray) -> None:
    hashed = in_range(FULL, ids, "hash", None)
    assert np.array_equal(hashed, in_range(FULL, torch.from_numpy(ids), "hash", None))
    assert ((hashed >= 0) & (hashed < N)).all()
    inside = (ids >= 0) & (ids < N)
    assert np.array_equal(hashed[inside], ids[inside])


def test_a_hash_spreads_ids_evenly_and_by_the_features_name() -> None:
    outside = np.arange(N, N + 100_000)
    hashed = in_range(FULL, outside, "hash", None)
    counts = np.bincount(hashed, minlength=N)
    assert ((counts - 2000) ** 2 / 2000).sum() < 100, "chi-squared with 49 degrees of freedom"
    other = in_range(Full("item", N, 8), outside, "hash", None)
    assert (hashed == other).mean() == pytest.approx(1 / N, abs=0.004)
    rows = Hash("user", N, 8).rows(outside)[0].rows[:, 0]
    assert (hashed == rows).mean() == pytest.approx(1 / N, abs=0.004), "nor is it the row of a hashed table"


def test_a_scheme_of_any_id_is_never_out_of_range() -> None:
    ids = np.array([-(2**63), 2**63 - 1])
    assert in_range(Hash("user", N, 8), ids, "error", None) is ids


@pytest.mark.parametrize(
    ("scheme", "policy", "oov_id", "why"),
    [
        (FULL, "ignore", None, "out_of_range 'ignore' is none of 'error', 'oov', 'hash'"),
        (FULL, "oov", None, "'oov' and oov_id None: 'oov' needs the id to read instead, and only 'oov'"),
        (FULL, "error", 3, "'error' and oov_id 3: 'oov' needs"),
        (FULL, "hash", 0, "'hash' and oov_id 0: 'oov' needs"),
        (FULL, "oov", N, r"oov_id 50 is itself outside 0\.\.49"),
        (FULL, "oov", -1, r"oov_id -1 is itself outside 0\.\.49"),
        (Hash("user", N, 8), "hash", None, "'hash' has no meaning: its Hash scheme takes every id"),
        (Hash("user", N, 8), "oov", 1, "'oov' has no meaning: its Hash scheme takes every id"),
        (
            QuotientRemainder("user", 2**31, 2**16, 8),
            "hash",
            None,
            r"fewer than 2\^31, and the scheme has 2147483648",
        ),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_when_the_field_is_declared(
    scheme: Any, policy: Any, oov_id: int | None, why: str
) -> None:
    with pytest.raises(ValueError, match=rf"^feature 'user': .*{why}"):
        Field(scheme, out_of_range=policy, oov_id=oov_id)


def test_serving_refuses_ids_outside_by_name() -> None:
    tables = {"user/full": np.zeros((N, 8), np.float32)}
    with pytest.raises(ValueError, match=r"feature 'user': id -1 at position 1 is outside 0\.\.49"):
        lookup(FULL, tables, np.array([3, -1]))
