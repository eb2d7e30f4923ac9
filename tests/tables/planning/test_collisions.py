"""Expected collisions against simulation, and against the rows that schemes really give."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tables import (
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    MixedDimension,
    MultiHash,
    QuotientRemainder,
    Robe,
    Scheme,
    Unified,
)
from recsys_tables.collisions import one_bag, places_of_their_own, row_shared
from recsys_tables.planning.collisions import collision_rate, expected_across_features, rows_touched

TRIALS = 400
Draw = Callable[[np.random.Generator], np.ndarray]


def mean_and_error(samples: list[float]) -> tuple[float, float]:
    return float(np.mean(samples)), float(np.std(samples) / np.sqrt(len(samples)))


@pytest.mark.parametrize(
    ("n", "rows", "k"),
    [(50, 200, 1), (50, 20, 1), (30, 8, 2), (60, 100, 2), (20, 5, 3), (12, 3, 4), (2, 2, 2)],
)
@pytest.mark.parametrize("form", ["bag", "places"])
def test_the_formulas_agree_with_simulation(form: str, n: int, rows: int, k: int) -> None:
    """Impressions are skewed, to show that they cancel."""
    random = np.random.default_rng(n * rows * k)
    impressions = 1 / np.arange(1, n + 1)
    places = 0 if form == "bag" else rows * np.arange(k)  # place c meets place c only
    observed = [collision_rate(random.integers(0, rows, (n, k)) + places, impressions) for _ in range(TRIALS)]
    expected = one_bag(n, rows, k) if form == "bag" else places_of_their_own(n, [rows] * k)
    for kind in ("all_rows", "any_row"):
        mean, error = mean_and_error([getattr(rate, kind) for rate in observed])
        assert getattr(expected, kind) == pytest.approx(mean, abs=4 * error + 1e-4)


def test_rows_of_other_features_agree_with_simulation() -> None:
    """Features of 40, 10 and 25 ids, 2 chunks each, in one table of 90 rows."""
    random = np.random.default_rng(0)
    owner = np.repeat([0, 1, 2], [80, 20, 50])
    samples = []
    for _ in range(TRIALS):
        rows = random.integers(0, 90, len(owner))
        samples.append(np.isin(rows[owner == 0], rows[owner != 0]).mean())
    mean, error = mean_and_error(samples)
    schemes = [Unified(name, 90, 8, 4) for name in "abc"]
    expected = expected_across_features(schemes, {"a": 40, "b": 10, "c": 25})
    assert expected["a"] == row_shared(70, 90) == pytest.approx(mean, abs=4 * error)
    assert expected["b"] > expected["a"], "the smallest feature meets most of the others' rows"


@pytest.mark.parametrize(
    "make",
    [
        lambda name: Hash(name, 700, 8),
        lambda name: MultiHash(name, 500, 8, num_hashes=2),
        lambda name: MultiHash(name, 30, 8, num_hashes=2),
        lambda name: Unified(name, 600, 8, 4),
        lambda name: FrequencySplit(name, 200, 300, 8),
        lambda name: Full(name, 1000, 8),
        lambda name: MixedDimension(name, 1000, 4, 8),
        lambda name: HashEmbedding(name, 60, 500, 8),
        lambda name: Robe(name, 600, 8, 4),
    ],
)
def test_schemes_collide_as_often_as_expected(make: Callable[[str], Scheme]) -> None:
    """Over the hashes of 40 features, each of which salts its own."""
    ids = np.arange(1000)
    impressions = 1000.0 / np.arange(1, 1001)
    expected = make("f").expected_collisions(ids, impressions)
    assert expected is not None
    rates = []
    for number in range(40):
        lookups = make(f"f{number}").rows(ids)
        rows = np.concatenate([item.rows + (j << 40) for j, item in enumerate(lookups)], axis=1)
        rates.append(collision_rate(rows, impressions))
    for kind in ("all_rows", "any_row"):
        mean, error = mean_and_error([getattr(rate, kind) for rate in rates])
        assert getattr(expected, kind) == pytest.approx(mean, abs=4 * error + 1e-9)


def test_arithmetic_rows_and_shared_rows_have_no_expectation() -> None:
    scheme = QuotientRemainder("a", 100, 10, 8)
    assert scheme.expected_collisions(np.arange(100), np.ones(100)) is None
    assert Robe("a", 100, 8, 16).expected_collisions(np.arange(9), np.ones(9)) is None, (
        "slots of a row differ"
    )
    assert expected_across_features([scheme, Hash("b", 10, 8)], {"a": 100, "b": 5}) == {}


def test_a_tail_without_ids_or_impressions_never_collides() -> None:
    scheme = FrequencySplit("a", 5, 2, 8)
    assert scheme.expected_collisions(np.arange(5), np.ones(5)) == (0, 0)
    assert scheme.expected_collisions(np.empty(0, np.int64), np.empty(0, np.int64)) == (0, 0)
    assert scheme.expected_collisions(np.array([0, -7, -9]), np.array([8, 1, 1])) == pytest.approx((0.1, 0.1))


def test_sub_tables_count_their_own_keys() -> None:
    """Two chunks in two sub-tables, so each holds one key of every id: 20 of b's meet a's rows."""
    schemes = [Unified(name, 50, 8, 4, num_tables=2) for name in "ab"]
    expected = expected_across_features([*schemes, Full("c", 5, 8)], {"a": 30, "b": 20, "c": 3})
    assert expected == pytest.approx({"a": row_shared(20, 50), "b": row_shared(30, 50)})


@given(n=st.integers(1, 10**7), rows=st.integers(1, 2**31 - 1), k=st.integers(1, 16))
def test_rates_are_shares_and_fall_with_rows(n: int, rows: int, k: int) -> None:
    for rate, roomier in (
        (one_bag(n, rows, k), one_bag(n, 2 * rows, k)),
        (places_of_their_own(n, [rows] * k), places_of_their_own(n, [2 * rows] * k)),
    ):
        assert 0 <= rate.all_rows <= rate.any_row * (1 + 1e-6) <= 1 + 1e-5  # tiny rates cancel
        assert roomier.any_row <= rate.any_row * (1 + 1e-9)
        assert roomier.all_rows <= rate.all_rows * (1 + 1e-6)
    assert one_bag(n, rows, 1) == pytest.approx((row_shared(n - 1, rows),) * 2, rel=1e-6)


def collisions_by_loop(rows, impressions):
    every = some = 0
    for i, mine in enumerate(rows):
        others = [other for j, other in enumerate(rows) if j != i]
        every += impressions[i] * any(sorted(mine) == sorted(other) for other in others)
        some += impressions[i] * any(set(mine) & set(other) for other in others)
    return every / sum(impressions), some / sum(impressions)


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_collision_rate_agrees_with_a_loop(n, k, num_embeddings, seed):
    rng = np.random.default_rng(seed)
    rows, impressions = rng.integers(0, num_embeddings, (n, k)), rng.integers(1, 9, n)
    assert collision_rate(rows, impressions) == pytest.approx(
        collisions_by_loop(rows.tolist(), impressions.tolist())
    )
    assert rows_touched(rows, num_embeddings) == len(set(rows.ravel().tolist())) / num_embeddings


def test_collision_rate_weighs_by_impressions():
    assert collision_rate([0, 0, 1], [1, 2, 7]) == pytest.approx((0.3, 0.3))
    assert collision_rate([[0, 5], [5, 0], [0, 6]], [1, 1, 2]) == pytest.approx((0.5, 1))
    assert collision_rate([[3, 3], [4, 4]], [1, 1]) == (0, 0)


def test_observed_rows_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"impressions have shape \(1,\), but there are 2 ids"):
        collision_rate([0, 1], [1])
    with pytest.raises(ValueError, match="position 1 are -1"):
        collision_rate([0, 1], [1, -1])
    with pytest.raises(ValueError, match="0 impressions"):
        collision_rate([0, 1], [0, 0])
    with pytest.raises(ValueError, match="integers"):
        collision_rate([0.5], [1])
    with pytest.raises(ValueError, match="at least one id"):
        rows_touched(np.zeros((0, 2), int), 3)
    for rows in ([0, 3], [0, -1]):
        with pytest.raises(ValueError, match=r"position 1 are \[(3|-1)\]: must lie in 0..2"):
            rows_touched(rows, 3)
