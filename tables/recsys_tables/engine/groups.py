"""Fields are put into groups, each of which shares one collection of tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys_tables.field import Field


@dataclass(frozen=True)
class Group:
    """Fields (by position) looked up together. `bag_per_id`: every id is a bag of its own, else every sample."""

    name: str
    fields: tuple[int, ...]
    bag_per_id: bool
    weighted: bool


def group_fields(fields: Sequence[Field]) -> tuple[Group, ...]:
    """Group fields so that every physical table lies in exactly one group.

    Fields that share a table, directly or through others, stay together and take the most general form any
    of them needs; all pooled fields share a collection (a second one where rows have weights); what needs a
    bag per id has a collection for itself, because its number of bags is its own.
    """
    together = _connected([set(_tables(field)) for field in fields])
    members: dict[tuple[str, bool, bool], list[int]] = {}
    for positions in together:
        bag_per_id = any(fields[i].needs_bag_per_id for i in positions)
        has_constants = any(_has_constants(fields[i]) for i in positions)
        weighted = has_constants or (not bag_per_id and any(fields[i].weighs_rows for i in positions))
        name = "pooled"
        if bag_per_id:
            name = f"ids/{fields[positions[0]].feature}".replace(
                ".", "%2E"
            )  # no module's name may hold a '.'
        elif weighted:
            name = "weighted"
        members.setdefault((name, bag_per_id, weighted), []).extend(positions)
    return tuple(
        Group(name, tuple(sorted(positions)), bag_per_id, weighted)
        for (name, bag_per_id, weighted), positions in members.items()
    )


def _connected(sets: list[set[str]]) -> list[list[int]]:
    """Return the positions of the sets, joined where they share an element; in order of first position."""
    components: list[tuple[list[int], set[str]]] = []
    for position, names in enumerate(sets):
        touching = [entry for entry in components if entry[1] & names]
        components = [entry for entry in components if not entry[1] & names]
        positions = sorted([position, *(p for entry in touching for p in entry[0])])
        components.append((positions, names.union(*(entry[1] for entry in touching))))
    return sorted(positions for positions, _ in components)


def _tables(field: Field) -> list[str]:
    return [table.name for table in field.scheme.tables()]


def _has_constants(field: Field) -> bool:
    return any(lookup.weights is not None for lookup in field.scheme.rows(np.empty(0, np.int64)))
