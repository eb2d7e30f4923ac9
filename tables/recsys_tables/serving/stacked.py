"""Vectors of several fields side by side, of one id a field: what a request needs, of which most rows come in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_cython_ext.lookup import TableBatchedLookup
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.field import Field
from recsys_tables.out_of_range import in_range
from recsys_tables.serving.artefact import Artefact

MOST_IDS = np.iinfo(np.uint64).max  # of a scheme that takes every id


@dataclass(frozen=True)
class _Group:
    """Fields of one class of schemes, by their places among the features that are looked up."""

    places: list[int]
    schemes: list[Any]  # each a `ParameterFree` that is side by side


class StackedVectors:
    """The lookup of one id of each of some fields of an artefact, whose vectors are all of one width.

    Fields whose vectors are rows side by side, as those of full, hashed, unified and coded tables are, share one call.
    The others are looked up field by field.
    """

    def __init__(
        self, artefact: Artefact, features: Sequence[str], places: Sequence[int], width: int
    ) -> None:
        """Take features, the place of each one's vector in a row of the output, and the width of all of that."""
        fields = [artefact.field(feature) for feature in features]
        self._artefact = artefact
        self._fields = fields
        self._places = list(places)
        self._num_ids = np.array(
            [MOST_IDS if (n := field.scheme.num_ids) is None else n - 1 for field in fields], np.uint64
        )[:, None]
        together = [number for number, field in enumerate(fields) if _is_side_by_side(artefact, field)]
        self._alone = [number for number in range(len(fields)) if number not in together]
        groups: dict[type, _Group] = {}
        for number in together:
            owner: Any = fields[number].scheme.owner
            group = groups.setdefault(type(owner), _Group([], []))
            group.places.append(number)
            group.schemes.append(owner)
        self._groups = list(groups.values())
        tables, columns = [], []
        for group in self._groups:
            for number, scheme in zip(group.places, group.schemes, strict=True):
                column = places[number] * scheme.embedding_dim
                for item in scheme.rows(np.empty(0, np.int64)):
                    table = artefact.tables[item.table]
                    tables.append(table.kernel_table)
                    columns.append(column)
                    column += table.width
        self._lookup = TableBatchedLookup(tables, columns, width)

    def into(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Write the vectors of ids, int64 [F, n], to the places of their features in float32 [n, width].

        Raises ValueError for an id outside its scheme's space, as `Artefact.vectors` does.
        """
        if (ids.view(np.uint64) > self._num_ids).any():  # one below 0 is above 2^63
            ids = np.stack(
                [
                    in_range(field.scheme, of_field, field.out_of_range, field.oov_id)
                    for field, of_field in zip(self._fields, ids, strict=True)
                ]
            )
        if self._groups:
            rows = [
                group.schemes[0].rows_of_fields(group.schemes, ids[group.places]) for group in self._groups
            ]
            self._lookup.gather(
                np.ascontiguousarray(rows[0] if len(rows) == 1 else np.concatenate(rows)), out
            )
        for number in self._alone:
            vectors = self._artefact.vectors(self._fields[number].feature, ids[number])
            first = self._places[number] * vectors.shape[1]
            out[:, first : first + vectors.shape[1]] = vectors


def _is_side_by_side(artefact: Artefact, field: Field) -> bool:
    """Tell whether a field's vector is one row of each of its lookups, as they are stored, one after the other."""
    owner = field.scheme.owner
    if not (isinstance(owner, ParameterFree) and owner.is_side_by_side):
        return False
    lookups = owner.rows(np.empty(0, np.int64))  # type: ignore[attr-defined]
    tables = [artefact.tables[item.table] for item in lookups]
    return (
        all(item.weights is None and item.rows.shape[1] == 1 for item in lookups)
        and all(table.projection is None for table in tables)
        and sum(table.width for table in tables) == field.scheme.embedding_dim
    )
