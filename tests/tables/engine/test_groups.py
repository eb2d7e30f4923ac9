"""Groups: every physical table in one collection, of the most general form that its fields need."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tables import Full, Hash, QuotientRemainder, Unified
from recsys_tables.engine.groups import Group, group_fields
from recsys_tables.field import Field
from recsys_tables.scheme import Lookup

POOLED: dict[str, Any] = {"multivalued": True}
SEQUENCE: dict[str, Any] = {"multivalued": True, "pooling": "none"}
WEIGHTED: dict[str, Any] = {"multivalued": True, "weighted": True}


class Constant(Hash):
    """A hash whose rows have constant weights."""

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        (item,) = super().rows(ids)
        return (Lookup(item.table, item.rows, np.ones(item.rows.shape, np.float32)),)


def product(feature: str) -> QuotientRemainder:
    return QuotientRemainder(feature, 50, 7, 8, "product")


def shared(feature: str) -> Unified:
    return Unified(feature, 31, 8, 4)


def test_pooled_fields_share_one_collection() -> None:
    fields = [Field(Full("a", 5, 8)), Field(Hash("b", 5, 12), "mean", **POOLED), Field(shared("c"), **POOLED)]
    assert group_fields(fields) == (Group("pooled", (0, 1, 2), bag_per_id=False, weighted=False),)


def test_weights_in_the_lookup_have_a_collection_of_their_own() -> None:
    fields = [
        Field(Full("a", 5, 8), **WEIGHTED),
        Field(Full("b", 5, 8)),
        Field(Constant("c", 5, 8), **POOLED),
    ]
    assert group_fields(fields) == (
        Group("weighted", (0, 2), bag_per_id=False, weighted=True),
        Group("pooled", (1,), bag_per_id=False, weighted=False),
    )


def test_the_weight_of_a_single_id_is_not_in_the_lookup() -> None:
    assert group_fields([Field(product("a"), weighted=True), Field(Full("b", 5, 8), weighted=True)]) == (
        Group("pooled", (0, 1), bag_per_id=False, weighted=False),
    )


def test_sequences_and_products_have_a_collection_each() -> None:
    fields = [
        Field(product("a"), **WEIGHTED),
        Field(Full("b", 5, 8), **SEQUENCE),
        Field(product("c")),
        Field(Constant("d", 5, 8), **SEQUENCE),
    ]
    assert group_fields(fields) == (
        Group("ids/a", (0,), bag_per_id=True, weighted=False),
        Group("ids/b", (1,), bag_per_id=True, weighted=False),
        Group("pooled", (2,), bag_per_id=False, weighted=False),
        Group("ids/d", (3,), bag_per_id=True, weighted=True),
    )


def test_fields_of_a_shared_table_take_the_most_general_form() -> None:
    fields = [
        Field(Full("x", 5, 8)),
        Field(shared("a")),
        Field(shared("b"), **SEQUENCE),
        Field(shared("c"), **WEIGHTED),
    ]
    assert group_fields(fields) == (
        Group("pooled", (0,), bag_per_id=False, weighted=False),
        Group("ids/a", (1, 2, 3), bag_per_id=True, weighted=False),
    )
    assert group_fields([Field(shared("a")), Field(shared("c"), **WEIGHTED)]) == (
        Group("weighted", (0, 1), bag_per_id=False, weighted=True),
    )


def test_tables_shared_through_a_third_field_join_their_fields() -> None:
    one, other = Unified("a", 31, 4, 4, "one"), Unified("b", 31, 4, 4, "other")
    both = Unified("c", 31, 8, 4, "dealt", num_tables=2)
    halves = [Unified(f, 31, 4, 4, "dealt", num_tables=2) for f in ("p", "q", "r", "s")]
    assert {t.name for h in halves for t in h.tables()} == {t.name for t in both.tables()}
    fields = [Field(one), *map(Field, halves), Field(both, **SEQUENCE), Field(other)]
    assert [group.fields for group in group_fields(fields)] == [(0, 6), (1, 2, 3, 4, 5)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["full", "product", "shared", "dealt"]),
            st.sampled_from(["sum", "mean", "none"]),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_every_field_and_every_table_is_in_exactly_one_group(
    kinds: list[tuple[str, Any, bool, bool]],
) -> None:
    makers: dict[str, Any] = {
        "full": lambda f: Full(f, 5, 8),
        "product": product,
        "shared": shared,
        "dealt": lambda f: Unified(f, 31, 4, 4, "dealt", num_tables=3),
    }
    fields = [
        Field(makers[kind](f"f{i}"), pooling, multivalued or pooling == "none", weighted)
        for i, (kind, pooling, multivalued, weighted) in enumerate(kinds)
    ]
    groups = group_fields(fields)
    assert sorted(i for group in groups for i in group.fields) == list(range(len(fields)))
    tables = [{t.name for i in group.fields for t in fields[i].scheme.tables()} for group in groups]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert group.bag_per_id == any(fields[i].needs_bag_per_id for i in group.fields)
        if not group.bag_per_id:
            assert group.weighted == any(fields[i].weighs_rows for i in group.fields)


@pytest.mark.parametrize("feature", ["a.b", "a"])
def test_names_of_groups_can_be_names_of_modules(feature: str) -> None:
    (group,) = group_fields([Field(shared(feature), **SEQUENCE)])
    assert "." not in group.name
