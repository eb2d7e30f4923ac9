"""Predictions of the same rows, aligned: every arm and seed in one order, or an error that names the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.evaluation.metrics import binary_labels


@dataclass(frozen=True)
class Paired:
    """Predictions on the same rows in the same order: arms [S, n], labels [n], clusters [n] codes or None."""

    arms: dict[str, np.ndarray]
    labels: np.ndarray
    clusters: np.ndarray | None
    row_ids: pa.Array


def pair(predictions: Mapping[str, pa.Table | Sequence[pa.Table]]) -> Paired:
    """Align tables (row_id, label, prediction, optionally user_id) by row_id; an arm is one table per seed.

    The first table gives the order. Errors (ValueError): no tables, missing columns or values, duplicate
    row ids, rows that another table lacks (the first are named), labels or users that disagree.
    """
    tables = {
        name: [value] if isinstance(value, pa.Table) else list(value) for name, value in predictions.items()
    }
    if not tables or not all(tables.values()):
        raise ValueError("nothing to pair: give at least one arm, and at least one table of predictions each")
    where = {(name, s): f"arm {name!r}, seed {s}" for name in tables for s in range(len(tables[name]))}
    first, *_ = where
    row_ids = _column(tables[first[0]][0], "row_id", where[first])
    labels: tuple[str, pa.Array] | None = None
    users: tuple[str, pa.Array] | None = None
    arms: dict[str, list[np.ndarray]] = {name: [] for name in tables}
    for (name, s), source in where.items():
        table = tables[name][s]
        take = _positions(row_ids, _column(table, "row_id", source), source, where[first])
        labels = _agreed(labels, _column(table, "label", source).take(take), "label", source, row_ids)
        if "user_id" in table.column_names:
            users = _agreed(users, _column(table, "user_id", source).take(take), "user_id", source, row_ids)
        column = _column(table, "prediction", source).take(take)
        arms[name].append(column.to_numpy(zero_copy_only=False).astype(np.float64))
    assert labels is not None
    return Paired(
        arms={name: np.stack(values) for name, values in arms.items()},
        labels=binary_labels(labels[1].to_numpy(zero_copy_only=False)),
        clusters=None if users is None else users[1].dictionary_encode().indices.to_numpy(),
        row_ids=row_ids,
    )


def _column(table: pa.Table, name: str, source: str) -> pa.Array:
    """A column as one array without missing values; dictionaries are decoded."""
    if table.column_names.count(name) != 1:
        raise ValueError(f"{source}: needs one column {name!r}, has {table.column_names}")
    column = pa.concat_arrays(table.column(name).chunks or [pa.array([], table.schema.field(name).type)])
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if column.null_count:
        i = pc.index(column.is_null(), True).as_py()
        raise ValueError(f"{source}: {name} is missing at row {i}: fill it, or drop the row from every arm")
    return column


def _positions(row_ids: pa.Array, found: pa.Array, source: str, reference: str) -> pa.Array:
    """Where each of row_ids stands in found; both must hold the same ids, once each."""
    found = found.cast(row_ids.type)
    for ids, owner in ((row_ids, reference), (found, source)):
        counts = ids.value_counts()
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            raise ValueError(f"{owner}: duplicate row ids {_some(repeated)}: each row must be scored once")
    where = pc.index_in(row_ids, value_set=found)
    missing = row_ids.filter(where.is_null())
    if len(missing):
        raise ValueError(f"{source}: lacks row ids {_some(missing)} of {reference}: score the same rows")
    extra = found.filter(pc.invert(pc.is_in(found, value_set=row_ids)))
    if len(extra):
        raise ValueError(f"{reference}: lacks row ids {_some(extra)} of {source}: score the same rows")
    return where


def _agreed(
    known: tuple[str, pa.Array] | None, values: pa.Array, name: str, source: str, row_ids: pa.Array
) -> tuple[str, pa.Array]:
    """The first table's values, after a check that this table's are the same."""
    if known is None:
        return source, values
    owner, expected = known
    same = pc.equal(expected, values.cast(expected.type))
    if not pc.all(same).as_py():
        i = pc.index(same, False).as_py()
        raise ValueError(
            f"{source}: {name} of row id {row_ids[i]} is {values[i]}, but {expected[i]} in {owner}: "
            "these are not the same rows"
        )
    return known


def _some(ids: pa.Array) -> str:
    """The first few ids, and how many there are."""
    text = ", ".join(str(value) for value in ids[:5].to_pylist())
    return text if len(ids) <= 5 else f"{text}, … ({len(ids)} in all)"
