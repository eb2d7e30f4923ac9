"""Every scheme under a budget: within it, no smaller in a larger one, and dealt to the features as declared."""

import itertools
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys_tables.bytes import OptimizerName, resident_bytes
from recsys_tables.config import TablesConfig
from recsys_tables.planning.plan import BudgetError, TablePlan, plan_tables
from recsys_tables.schemes.allocation import FeatureSize, rows_by_feature

OPEN = ("frequency_split",)  # frequent ids as codes, the rest as they are
ANY_ID = ("hash", "multi_hash", "hash_embedding", "unified", "robe")
CODES = (
    *("quotient_remainder", "mixed_radix", "chinese_remainder", "path_based", "mixed_dimension"),
    *("tensor_train", "mem_com"),
)
BUDGETED = (*ANY_ID, *OPEN, *CODES)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "multi_hash": [{"num_hashes": 3}],
    "hash_embedding": [{"num_hashes": 5, "importances_per_row": 0.5}],
    "unified": [{"num_tables": 3, "chunk_dim": 4}, {"own_rows_up_to": 40}],
    "robe": [{"block_dim": 32}, {"signs": False}],
    "quotient_remainder": [{"operation": "concat"}],
    "mixed_radix": [{"num_tables": 2, "operation": "concat"}, {"num_tables": 4}],
    "chinese_remainder": [{"num_tables": 2, "operation": "sum"}, {"num_tables": 8}],
    "path_based": [{"hidden_dim": 4}],
    "mixed_dimension": [{"alpha": 0.0}, {"alpha": 1.0}],
    "tensor_train": [{"max_rank": 3}],
}
SETTINGS = [(scheme, keys) for scheme in BUDGETED for keys in [{}, *OPTIONS.get(scheme, [])]]


def size(name: str, ids: int, encoding: str) -> FeatureSize:
    """Return the size of `ids` ids at 14 bytes each and two reserved codes; an open vocabulary holds a third of them."""
    codes = ids + 2
    if encoding == "hash":
        return FeatureSize(name, None, codes, 0, 14 * ids)
    kept = ids // 3 if encoding == "open" else ids
    return FeatureSize(name, kept + 2, codes, 14 * kept, 14 * ids, open=encoding == "open")


def sizes_for(scheme: str, ids: list[int]) -> list[FeatureSize]:
    encoding = "open" if scheme in OPEN else "hash" if scheme in ANY_ID else "vocabulary"
    return [size(f"f{position}", count, encoding) for position, count in enumerate(ids)]


def plan(
    features: list[FeatureSize], scheme: str, optimizer: OptimizerName = "rowwise_adagrad", **keys: Any
) -> TablePlan:
    config: Any = TypeAdapter(TablesConfig).validate_python({"scheme": scheme, **keys})
    return plan_tables(config, features, optimizer)


def test_every_scheme_is_tested() -> None:
    models = get_args(get_args(TablesConfig)[0])
    assert {get_args(model.model_fields["scheme"].annotation)[0] for model in models} == {
        *("full", "coded", "compact", "opt_embed", "pep", "deep_light", "auto_dim", "auto_srh", "mde"),
        *BUDGETED,
    }


@pytest.mark.parametrize(("scheme", "keys"), SETTINGS, ids=str)
@settings(max_examples=12)
@given(
    ids=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    optimizer=st.sampled_from(get_args(OptimizerName)),
)
def test_a_budget_is_kept_and_more_of_it_is_never_less(
    scheme: str, keys: dict[str, Any], optimizer: OptimizerName, ids: list[int]
) -> None:
    features = sizes_for(scheme, ids)
    totals = []
    for percent in (20, 40, 60, 80, 100, 150, 400):
        try:
            planned = plan(features, scheme, optimizer, budget=f"{percent}%", **keys)
        except BudgetError:
            assert not totals, "what fits a budget fits a larger one"
            continue
        assert planned.bytes.total <= planned.full_bytes * percent / 100
        vocabulary = sum(feature.vocabulary_bytes for feature in features)
        assert planned.bytes == resident_bytes(planned.schemes, vocabulary, optimizer)
        assert [s.feature for s in planned.schemes] == [feature.name for feature in features]
        assert {scheme.embedding_dim for scheme in planned.schemes} == {16}
        totals.append(planned.bytes.total)
    assert all(a <= b for a, b in itertools.pairwise(totals))


@pytest.mark.parametrize(("scheme", "keys"), SETTINGS, ids=str)
def test_the_smallest_tables_fit_their_own_bytes_and_no_byte_less(scheme: str, keys: dict[str, Any]) -> None:
    """A share of nothing is never no rows: every table keeps one."""
    features = sizes_for(scheme, [2000, 300, 0])
    with pytest.raises(BudgetError) as caught:
        plan(features, scheme, budget="1B", **keys)
    needed = caught.value.needed
    planned = plan(features, scheme, budget=f"{needed}B", **keys)
    assert planned.bytes.total == needed
    assert all(table.num_embeddings >= 1 for s in planned.schemes for table in s.tables())
    with pytest.raises(BudgetError, match=f"need {needed:,} bytes"):
        plan(features, scheme, budget=f"{needed - 1}B", **keys)


@pytest.mark.parametrize("percent", [50, 80])
@pytest.mark.parametrize("scheme", [*ANY_ID, *OPEN, "mem_com", "chinese_remainder"])
def test_most_of_a_budget_is_used_where_rows_follow_it(scheme: str, percent: int) -> None:
    """The others have steps: halves and thirds of the rows, widths of 4, ranks up to a limit."""
    planned = plan(sizes_for(scheme, [200_000, 30_000, 500]), scheme, budget=f"{percent}%")
    assert 0.95 * percent <= 100 * planned.bytes.total / planned.full_bytes <= percent


def test_radices_of_m_and_m_plus_1_come_near_most_budgets() -> None:
    """Two radices that are equal would leave 1, 1/4, 1/9, … of the rows; those between leave 1/2, 1/6, … too."""
    features = sizes_for("mixed_radix", [200_000])
    radices = [
        plan(features, "mixed_radix", budget=budget).schemes[0].radices  # type: ignore[attr-defined]
        for budget in ("200%", "100%", "45%", "35%", "20%", "18%")
    ]
    assert radices == [(1, 1), (1, 2), (2, 2), (2, 3), (5, 6), (10, 10)]


@pytest.mark.parametrize(("scheme", "keys"), [("hash", {}), ("multi_hash", {}), ("unified", {})])
def test_rows_of_published_results(scheme: str, keys: dict[str, Any]) -> None:
    """As the first release planned 10 % of two features: a change here changes every published number."""
    features = sizes_for(scheme, [20_000, 5_000])
    planned = plan(features, scheme, budget="10%", **keys)
    rows = [table.num_embeddings for s in planned.schemes for table in s.tables()]
    assert rows == {"unified": [5695, 5695]}.get(scheme, [2412, 603])


@pytest.mark.parametrize("scheme", ["hash", "multi_hash", "hash_embedding", "mem_com", "frequency_split"])
def test_rows_by_the_square_root_of_ids(scheme: str) -> None:
    features = sizes_for(scheme, [90_000, 900])
    by_ids = plan(features, scheme, budget="40%")
    by_root = plan(features, scheme, budget="40%", allocation="sqrt")

    def ratio(planned: TablePlan) -> float:
        large, small = (s.tables()[0].num_embeddings - getattr(s, "num_hot", 0) for s in planned.schemes)
        return large / small

    assert ratio(by_ids) == pytest.approx(100, rel=0.02)
    assert ratio(by_root) == pytest.approx(10, rel=0.02)
    assert by_root.bytes.total == pytest.approx(by_ids.bytes.total, rel=0.01), (
        "the same budget, dealt otherwise"
    )


@given(ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), share=st.floats(0, 16))
def test_an_allocation_deals_the_same_rows_whichever_it_is(ids: list[int], share: float) -> None:
    proportional = rows_by_feature(ids, "proportional")(share)
    assert proportional == [max(1, int(share * n)) for n in ids]
    assert sum(rows_by_feature(ids, "sqrt")(share)) == pytest.approx(share * sum(ids), abs=len(ids) + 1)


def test_a_frequency_split_needs_an_open_vocabulary() -> None:
    for encoding in ("vocabulary", "hash"):
        with pytest.raises(ValueError, match="'f': the scheme 'frequency_split' needs the codes"):
            plan([size("f", 100, encoding)], "frequency_split", budget="90%")


@pytest.mark.parametrize("scheme", ["full", "compact", *CODES])
def test_an_open_vocabulary_is_refused_by_a_scheme_of_codes(scheme: str) -> None:
    keys: dict[str, Any] = {"widths": {"f": 4}} if scheme == "compact" else {}
    with pytest.raises(ValueError, match=f"'f': `unknown: hash` .* but the scheme '{scheme}' needs codes"):
        plan([size("f", 100, "open")], scheme, budget="90%", **keys)
    with pytest.raises(ValueError, match=f"'f' is hashed, but the scheme '{scheme}' needs vocabulary codes"):
        plan([size("f", 100, "hash")], scheme, budget="90%", **keys)


@given(
    ids=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    widths=st.lists(st.sampled_from([0, 4, 8, 16]), min_size=4, max_size=4),
    unknown=st.sampled_from(["default", "zero"]),
    optimizer=st.sampled_from(get_args(OptimizerName)),
)
def test_compact_tables_are_as_wide_as_declared(
    ids: list[int], widths: list[int], unknown: str, optimizer: OptimizerName
) -> None:
    """Every code has a row of its own but code 1, which is that of pruned ids, or zeros."""
    features = [size(f"f{i}", count, "vocabulary") for i, count in enumerate(ids)]
    declared = dict(zip([feature.name for feature in features], widths, strict=False))
    planned = plan(features, "compact", optimizer, widths=declared, unknown=unknown)
    vocabulary = sum(feature.vocabulary_bytes for feature in features)
    assert planned.bytes == resident_bytes(planned.schemes, vocabulary, optimizer)
    assert planned.full_bytes == plan(features, "full", optimizer).bytes.total
    parameters = 0
    for scheme, feature in zip(planned.schemes, features, strict=True):
        width, codes = declared[feature.name], feature.num_codes
        assert codes is not None
        (lookup,) = scheme.rows(np.arange(codes))
        weights = np.ones((codes, 1)) if lookup.weights is None else lookup.weights
        looked_up = (weights[:, 0] > 0).tolist()
        assert looked_up == [width > 0 and (unknown == "default" or code != 1) for code in range(codes)]
        rows = lookup.rows[looked_up, 0].tolist()
        assert rows == list(range(len(rows))), "no row is shared"
        parameters += 4 * width * len(rows) or 4 * 4  # the one row of a field without a table
    assert planned.bytes.parameters == parameters


def test_a_frequency_split_owns_rows_for_its_codes_and_hashes_the_rest() -> None:
    (scheme,) = plan([size("f", 3000, "open")], "frequency_split", budget="60%").schemes
    assert scheme.num_hot == 1002  # type: ignore[attr-defined]
    (table,) = scheme.tables()
    assert 1 < table.num_embeddings - 1002 < 2000, "the tail shares what is left"


def test_an_open_vocabulary_counts_all_its_ids_where_they_are_hashed() -> None:
    hashed, open_ = size("a", 3000, "hash"), replace(size("b", 3000, "open"), vocabulary_bytes=0)
    a, b = plan([hashed, open_], "hash", budget="50%").schemes
    assert a.tables()[0].num_embeddings == b.tables()[0].num_embeddings


def test_small_features_of_a_unified_table_keep_rows_of_their_own() -> None:
    features = [size("large", 5000, "vocabulary"), size("small", 30, "vocabulary"), size("open", 30, "open")]
    planned = plan(features, "unified", budget="90%", own_rows_up_to=32, num_tables=2)
    assert [type(scheme).__name__ for scheme in planned.schemes] == ["Unified", "Full", "Unified"]
    assert planned.schemes[1].tables()[0].num_embeddings == 32
    assert {table.name for table in planned.schemes[0].tables()} == {"unified/shared_0", "unified/shared_1"}
    alone = plan([features[1]], "unified", budget="100%", own_rows_up_to=32)
    assert type(alone.schemes[0]).__name__ == "Full", "no shared table where nothing is left to share"


def test_widths_by_popularity() -> None:
    """d_f = λ n_f^-α: the larger feature is narrower, and a tiny one is not worth a projection."""
    features = sizes_for("mixed_dimension", [100_000, 3_000, 8])
    for alpha, narrower in ((0.0, False), (0.3, True)):
        planned = plan(features, "mixed_dimension", budget="60%", alpha=alpha)
        large, middle, tiny = (scheme.tables()[0].embedding_dim for scheme in planned.schemes)
        assert (large < middle) is narrower
        assert tiny == 16
        assert planned.bytes.dense == sum(4 * 16 * width for width in (large, middle) if width < 16)
    whole = plan(features, "mixed_dimension", budget="100%")
    assert whole.bytes.total == whole.full_bytes, "all of the budget is the full table"


def test_paths_share_rows_and_their_networks_are_counted() -> None:
    features = sizes_for("path_based", [100_000])
    small, large = (plan(features, "path_based", budget=budget) for budget in ("30%", "80%"))
    assert small.schemes[0].num_paths > large.schemes[0].num_paths > 1  # type: ignore[attr-defined]
    numbers = 16 * 16 + 16 + 16 * 16 + 16
    assert small.bytes.dense == 4 * numbers * small.schemes[0].num_paths  # type: ignore[attr-defined]
