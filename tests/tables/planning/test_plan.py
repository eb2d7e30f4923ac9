"""Budgets: never exceeded, nearly used, and refused with numbers when they cannot be kept."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys_tables.bytes import ResidentBytes
from recsys_tables.config import TablesConfig
from recsys_tables.planning.plan import BudgetError, TablePlan, full_table_bytes, plan_tables
from recsys_tables.scheme import MAX_ROWS
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import budget_bytes


def size(name: str, ids: int, hashed: bool = False) -> FeatureSize:
    """Return the size of a vocabulary of `ids` ids at 14 bytes each, and its two reserved codes."""
    codes = ids + 2
    return FeatureSize(name, None if hashed else codes, codes, 0 if hashed else 14 * ids, 14 * ids)


VOCABULARIES = [size("user", 20_000), size("item", 5_000), size("device", 30)]
HASHED = [size("user", 20_000, True), size("item", 5_000, True), size("device", 30, True)]


def plan(features: list[FeatureSize], scheme: str, budget: str | None = None, **keys: Any) -> TablePlan:
    keys |= {} if budget is None else {"budget": budget}
    config: Any = TypeAdapter(TablesConfig).validate_python({"scheme": scheme, **keys})
    return plan_tables(config, features)


@pytest.mark.parametrize("budget", ["100%", "30%", "10%", "3%", "1%", "300KB", "4MB"])
@pytest.mark.parametrize("features", [VOCABULARIES, HASHED], ids=["vocabularies", "hashed"])
@pytest.mark.parametrize("scheme", ["hash", "unified"])
def test_hashed_tables_use_their_budget(scheme: str, features: list[FeatureSize], budget: str) -> None:
    allowed = budget_bytes(budget, full_table_bytes(16, features))
    if allowed < sum(feature.vocabulary_bytes for feature in features):
        with pytest.raises(BudgetError):
            plan(features, scheme, budget)
        return
    planned = plan(features, scheme, budget)
    assert 0.95 * allowed <= planned.bytes.total <= allowed
    assert planned.full_bytes == full_table_bytes(16, features)


@pytest.mark.parametrize("operation", ["sum", "concat", "product"])
def test_quotient_remainder_keeps_its_budget_and_grows_with_it(operation: str) -> None:
    totals = []
    for percent in range(25, 201, 5):
        planned = plan(VOCABULARIES, "quotient_remainder", f"{percent}%", operation=operation)
        assert planned.bytes.total <= planned.full_bytes * percent / 100
        totals.append(planned.bytes.total)
    assert totals == sorted(totals)
    assert len(set(totals)) > 3


@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.integers(1, 3000), min_size=1, max_size=4), data=st.data())
def test_more_budget_never_gives_less(ids: list[int], data: st.DataObject) -> None:
    scheme = data.draw(st.sampled_from(["hash", "unified", "quotient_remainder"]))
    features = [size(f"f{position}", count) for position, count in enumerate(ids)]
    totals = []
    for percent in (40, 60, 80, 100, 150):
        try:
            planned = plan(features, scheme, f"{percent}%")
        except BudgetError:
            assert not totals, "what fits a budget fits a larger one"
            continue
        assert planned.bytes.total <= planned.full_bytes * percent / 100
        totals.append(planned.bytes.total)
    assert all(a <= b for a, b in itertools.pairwise(totals))


def test_a_hundred_percent_is_exactly_the_full_table() -> None:
    planned = plan(VOCABULARIES, "full", "100%")
    assert planned.bytes.total == planned.full_bytes
    assert [table.num_embeddings for s in planned.schemes for table in s.tables()] == [20_002, 5_002, 32]
    assert plan(VOCABULARIES, "full").bytes == planned.bytes


def test_the_full_table_keeps_every_id_whatever_the_minimum_count_and_the_width() -> None:
    """So that a share means the same number of bytes to every arm of a comparison."""
    rare = FeatureSize("user", 502, 20_002, 14 * 500, 14 * 20_000)
    planned = plan([rare], "full", "100%", embedding_dim=4)
    assert planned.full_bytes == full_table_bytes(16, [size("user", 20_000)])
    assert planned.bytes.parameters == 502 * 16
    assert planned.bytes.vocabulary == 14 * 500


def test_a_budget_that_cannot_be_kept_says_what_is_needed() -> None:
    with pytest.raises(BudgetError) as caught:
        plan(VOCABULARIES, "full", "10%")
    total, vocabulary = plan(VOCABULARIES, "full").bytes.total, 14 * 25_030
    assert str(caught.value) == (
        f"the smallest such tables need {total:,} bytes ({vocabulary:,} of them vocabularies), the budget 10% is "
        f"{int(total * 0.1):,}; take a smaller embedding_dim, a higher min_count, or a scheme without a vocabulary"
    )
    with pytest.raises(BudgetError, match="the budget 1000B is 1,000"):
        plan(VOCABULARIES, "quotient_remainder", "1000B")


def test_a_budget_of_compact_tables_is_only_checked() -> None:
    keys: dict[str, Any] = {"widths": {"user": 4, "item": 8, "device": 0}}
    free = plan(VOCABULARIES, "compact", **keys)
    assert plan(VOCABULARIES, "compact", f"{free.bytes.total}B", **keys) == free
    with pytest.raises(BudgetError, match=f"need {free.bytes.total:,} bytes"):
        plan(VOCABULARIES, "compact", f"{free.bytes.total - 1}B", **keys)


def test_a_history_reads_the_compact_table_of_its_target() -> None:
    seen, widths = replace(size("seen", 20_000), reads="user"), {"user": 4, "item": 8, "device": 4}
    planned, alone = (
        plan(features, "compact", widths=widths) for features in ([seen, *VOCABULARIES], VOCABULARIES)
    )
    assert [scheme.feature for scheme in planned.schemes] == ["seen", "user", "item", "device"]
    assert planned.schemes[0].tables() == planned.schemes[1].tables()
    assert planned.bytes == alone.bytes + ResidentBytes(vocabulary=seen.vocabulary_bytes)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"user": 4}, r"tables\.widths lacks item, device: give every feature a width, 0 for no table"),
        (
            {"user": 4, "item": 4, "device": 4, "seen": 4, "usr": 8},
            r"tables\.widths names seen, usr, but only these features have tables of their own: user, item, device",
        ),
    ],
)
def test_widths_are_those_of_the_features_with_tables(widths: dict[str, int], message: str) -> None:
    seen = replace(size("seen", 20_000), reads="user")
    with pytest.raises(ValueError, match=message):
        plan([*VOCABULARIES, seen], "compact", widths=widths)


@pytest.mark.parametrize("scheme", ["full", "quotient_remainder"])
def test_a_hashed_feature_is_refused_by_a_scheme_of_codes(scheme: str) -> None:
    features = [VOCABULARIES[0], HASHED[1]]
    with pytest.raises(ValueError, match=r"'item' is hashed, but the scheme .* set `encoding: vocabulary`"):
        plan(features, scheme, "50%")


@pytest.mark.parametrize("scheme", ["hash", "unified"])
def test_large_logs_stop_at_the_largest_table(scheme: str) -> None:
    features = [size("user", 300_000_000, True)]
    planned = plan(features, scheme, "10%")
    assert planned.bytes.total == pytest.approx(0.1 * planned.full_bytes, rel=0.01)
    largest = plan(features, scheme, "900GB").schemes[0].tables()[0]
    assert largest.num_embeddings == MAX_ROWS - 1


def test_declared_widths_reach_the_tables() -> None:
    planned = plan(HASHED, "unified", "10%", embedding_dim=32, chunk_dim=4, init_bound=0.2)
    assert {scheme.embedding_dim for scheme in planned.schemes} == {32}
    assert len({scheme.tables() for scheme in planned.schemes}) == 1, "one table for all features"
    table = planned.schemes[0].tables()[0]
    assert (table.embedding_dim, table.init_bound) == (4, 0.2)
    assert [scheme.feature for scheme in planned.schemes] == ["user", "item", "device"]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("10%", 1000), ("0.5 %", 50), ("64MB", 64 * 10**6), ("1.5KiB", 1536), ("7B", 7), ("2 gb", 2 * 10**9)],
)
def test_budget_bytes(budget: str, expected: int) -> None:
    assert budget_bytes(budget, 10_000) == expected
