"""Predictions of the same rows, aligned: every arm and seed in one order, or an error that names the rows.

Nothing here makes a Python object for a row. Tables are taken one after the other, so an iterable that reads them lazily
keeps one of them in memory beside what is already paired: 8 bytes a row and seed, the row ids, the labels, the users.
Tables in the order of the first, the usual case, are recognised by comparing row ids and are then not looked up.

A file of text has ids of text, another may have integers: the text 1 is the integer 1, and 01 is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from recsys.evaluation.metrics import improper
from recsys_pipelines.arrow import as_numpy

SHOWN = 5  # row ids in an error


@dataclass(frozen=True)
class Paired:
    """Predictions on the same rows in the same order.

    Attributes:
        arms: Predictions [S, n] by the name of the arm.
        labels: Labels, bool [n].
        clusters: Codes of users [n]; None where rows are independent.
        row_ids: Ids of the rows [n].
        attributes: Other columns [n] by name, as Arrow arrays with nulls where they are missing.
    """

    arms: dict[str, np.ndarray]
    labels: np.ndarray
    clusters: np.ndarray | None
    row_ids: pa.Array
    attributes: dict[str, pa.Array] = field(default_factory=dict)


def pair(
    predictions: Mapping[str, pa.Table | Iterable[pa.Table]],
    sources: Mapping[str, Sequence[str]] | None = None,
    attributes: Sequence[str] = (),
) -> Paired:
    """Align tables (row_id, label, prediction, optionally user_id) by row_id; an arm is one table per seed.

    The first table gives the order.

    Args:
        predictions: Tables of each arm by its name.
        sources: Name of each table in errors, such as that of its file.
        attributes: Other columns to pair, which at least one table must have.

    Raises:
        ValueError: There are no tables, columns or values are missing, row ids are duplicate, a table lacks rows of
            another (the first are named), labels are other than 0 and 1, predictions outside [0, 1], labels, users or
            attributes disagree, or there is one class or one user only.
    """
    first = _FirstTable(attributes)
    arms: dict[str, np.ndarray] = {}
    for name, value in predictions.items():
        rows: list[np.ndarray] = []
        for table in [value] if isinstance(value, pa.Table) else value:
            source = f"arm {name!r}, seed {len(rows)}" if sources is None else sources[name][len(rows)]
            rows.append(first.add(table, source))
            del table  # before the next one is read
        if not rows:
            raise ValueError(f"arm {name!r}: nothing to pair, no table of predictions: give at least one")
        arms[name] = rows[0][None] if len(rows) == 1 else np.stack(rows)
    if not arms:
        raise ValueError("nothing to pair: give at least one arm, and at least one table of predictions each")
    for attribute in attributes:
        if attribute not in first.columns:
            raise ValueError(f"{first.source}: has no column {attribute!r}, and no other arm has it")
    labels = as_numpy(first.columns["label"][1]) == 1
    users = first.columns.get("user_id")
    _require_both_classes(labels, first)
    clusters = None if users is None else as_numpy(users[1].dictionary_encode().indices)
    if users is not None and clusters is not None and not clusters.any():
        raise ValueError(
            f"{first.source}: all rows ({_some(first.row_ids)}) belong to user {users[1][0]}: users are resampled as "
            "a whole, so bring rows of several, or leave the column of users out"
        )
    return Paired(
        arms, labels, clusters, first.row_ids, {name: first.columns[name][1] for name in attributes}
    )


class _FirstTable:
    """The rows of the first table, which gives the order, and the columns that the tables so far have of them."""

    def __init__(self, attributes: Sequence[str]) -> None:
        self.source = ""
        self.row_ids: pa.Array = None  # before the first table
        self.columns: dict[str, tuple[str, pa.Array]] = {}  # and the table that each was first in
        self._attributes = attributes

    def add(self, table: pa.Table, source: str) -> np.ndarray:
        """Check a table against those before; return its predictions in the order of the first."""
        ids = _ids(table, "row_id", source)
        if self.row_ids is None:
            _refuse_duplicates(ids, source)
            self.source, self.row_ids = source, ids
        take = self.places(ids, source)
        self.agree("label", _labels(table, ids, source), take, source)
        if "user_id" in table.column_names:
            self.agree("user_id", _ids(table, "user_id", source), take, source)
        for attribute in self._attributes:
            if attribute in table.column_names:
                self.agree(attribute, _nullable(table, attribute, source), take, source)
        values = _probabilities(table, ids, source)
        return values if take is None else values[take]

    def places(self, row_ids: pa.Array, source: str) -> np.ndarray | None:
        """Return where each row stands among `row_ids`, which must be the same; None where the order is the same."""
        known, ids = _alike(self.row_ids, row_ids)
        if ids.equals(known):
            return None
        _refuse_duplicates(ids, source)
        where = pc.index_in(known, value_set=ids)
        missing = self.row_ids.filter(where.is_null())
        kinds = "" if row_ids.type == self.row_ids.type else ", as the texts of integers: 1, not 01"
        if len(missing):
            raise ValueError(
                f"{source}: lacks row ids {_some(missing)} of {self.source}: score the same rows{kinds}"
            )
        extra = row_ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
        if len(extra):
            raise ValueError(
                f"{self.source}: lacks row ids {_some(extra)} of {source}: score the same rows{kinds}"
            )
        _refuse_duplicates(known, self.source)  # two texts can be the bits of one integer
        return as_numpy(where)

    def agree(self, name: str, values: pa.Array, take: np.ndarray | None, source: str) -> None:
        """Keep a column of the first table that has it, and refuse one that says otherwise of a row."""
        values = values if take is None else values.take(pa.array(take))
        if name not in self.columns:
            self.columns[name] = (source, values)
            return
        owner, expected = self.columns[name]
        known, stated = _alike(expected, values)
        if stated.type != known.type:
            raise ValueError(
                f"{source}: {name} is {values.type}, but {expected.type} in {owner}: write both alike"
            )
        if stated.equals(known):
            return
        both_missing = pc.and_(stated.is_null(), known.is_null())
        same = pc.coalesce(pc.equal(known, stated), both_missing)
        i = pc.index(same, False).as_py()
        count = len(same) - same.true_count
        raise ValueError(
            f"{source}: {name} of row id {self.row_ids[i]} is {values[i]}, but {expected[i]} in {owner} "
            f"({count:,} rows differ): these are not the same rows"
        )


def _alike(first: pa.Array, second: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return both columns, and where one is text and the other numbers, the text as the numbers it writes.

    A column whose text is not all numbers, written the usual way, stays text beside the others' text.
    """
    for text, other in ((first, second), (second, first)):
        if not pt.is_large_string(text.type):
            continue
        if pt.is_integer(other.type):
            numbers, plain = _written_integers(text), other.cast(pa.int64(), safe=False)
        elif pt.is_floating(other.type):
            numbers, plain = _array(_series(text).cast(pl.Float64, strict=False)), other.cast(pa.float64())
        else:
            continue
        if numbers.null_count > text.null_count:
            return first.cast(text.type), second.cast(text.type)
        return (numbers, plain) if text is first else (plain, numbers)
    return first, second


def _written_integers(text: pa.Array) -> pa.Array:
    """Return the int64 of texts that write an integer as it is printed; from 2^63 on it is the int64 of the same bits."""
    texts = _series(text)
    signed, unsigned = (texts.cast(kind, strict=False) for kind in (pl.Int64, pl.UInt64))
    frame = pl.DataFrame({"text": texts, "signed": signed, "unsigned": unsigned})
    integers = frame.select(
        pl.when(pl.col("signed").cast(pl.String) == pl.col("text"))
        .then(pl.col("signed"))
        .when(pl.col("unsigned").cast(pl.String) == pl.col("text"))
        .then(pl.col("unsigned").reinterpret(signed=True))
    )
    return _array(integers.to_series())


def _series(text: pa.Array) -> pl.Series:
    return pl.Series(pl.from_arrow(text), dtype=pl.String)


def _array(series: pl.Series) -> pa.Array:
    column = series.to_arrow()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _one_array(table: pa.Table, name: str, source: str) -> pa.Array:
    """Return a column as one array; dictionaries are decoded, and text has offsets for any length."""
    if table.column_names.count(name) != 1:
        raise ValueError(f"{source}: needs one column {name!r}, has {table.column_names}")
    column = table.column(name)
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    column = column.cast(pa.large_string() if pt.is_string(kind) or pt.is_string_view(kind) else kind)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _column(table: pa.Table, name: str, source: str) -> pa.Array:
    """Return a column, which must have no missing values."""
    column = _one_array(table, name, source)
    if len(column) == 0:
        raise ValueError(f"{source}: holds no rows")
    if column.null_count:
        i = pc.index(column.is_null(), True).as_py()
        raise ValueError(
            f"{source}: {name} is missing at row {i} ({column.null_count:,} in all): fill it, or drop the row from "
            "every arm"
        )
    return column


def _nullable(table: pa.Table, name: str, source: str) -> pa.Array:
    """Return a column in which NaN is missing too."""
    column = _one_array(table, name, source)
    return pc.if_else(pc.is_nan(column), None, column) if pt.is_floating(column.type) else column


def _ids(table: pa.Table, name: str, source: str) -> pa.Array:
    """Return ids as int64 or as text.

    Whole floats and decimals are integers, for pandas and databases make such of ids.
    Unsigned ones of 64 bits, such as hashes, are the int64 of the same bits, in every table alike. Decimals beyond 64
    bits are the text that they are printed as.
    """
    column = _column(table, name, source)
    if pt.is_large_string(column.type):
        return column
    if pt.is_uint64(column.type):
        return column.view(pa.int64())
    if pt.is_decimal(column.type):
        return _whole_decimals(column, name, source)
    if pt.is_floating(column.type):
        values = as_numpy(column).astype(np.float64)
        _refuse_fractions(column, ~((values == np.floor(values)) & (np.abs(values) < 2.0**63)), name, source)
    if pt.is_integer(column.type) or pt.is_floating(column.type):
        return column.cast(pa.int64(), safe=False)
    raise ValueError(f"{source}: {name} is {column.type}: ids are integers or text")


def _whole_decimals(column: pa.Array, name: str, source: str) -> pa.Array:
    """Return decimals, which must be whole, as int64, or as text where some are beyond."""
    whole = pc.floor(column)
    _refuse_fractions(column, np.asarray(pc.not_equal(whole, column)), name, source)
    texts = _series(whole.cast(pa.large_string())).str.replace(r"\.0*$", "")
    integers = texts.cast(pl.Int64, strict=False)
    return _array(texts).cast(pa.large_string()) if integers.null_count() else _array(integers)


def _refuse_fractions(column: pa.Array, bad: np.ndarray, name: str, source: str) -> None:
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{source}: {name} is no 64-bit integer in some row ({column[i]} in row {i}); write it as text"
        )


def _numbers(table: pa.Table, name: str, ids: pa.Array, source: str) -> np.ndarray:
    column = _column(table, name, source)
    if not (pt.is_integer(column.type) or pt.is_floating(column.type) or pt.is_boolean(column.type)):
        raise ValueError(
            f"{source}: {name} is {column.type}, not numbers: the first, of row id {ids[0]}, is {column[0]}"
        )
    return as_numpy(column)


def _labels(table: pa.Table, ids: pa.Array, source: str) -> pa.Array:
    values = _numbers(table, "label", ids, source)
    bad = ~((values == 0) | (values == 1))
    if bad.any():
        raise ValueError(
            f"{source}: label is {values[bad][0]} at row ids {_some(ids.filter(pa.array(bad)))}: labels must be 0 or 1, "
            "binarise them first"
        )
    return _array(pl.Series(values.astype(np.int8)))


def _probabilities(table: pa.Table, ids: pa.Array, source: str) -> np.ndarray:
    values = _numbers(table, "prediction", ids, source).astype(np.float64, copy=False)
    bad = improper(values)
    if bad.any():
        raise ValueError(
            f"{source}: prediction is {values[bad][0]} at row ids {_some(ids.filter(pa.array(bad)))}: must be within "
            "[0, 1]; pass sigmoid(logit), and look for a diverged model if it is nan"
        )
    return values


def _refuse_duplicates(ids: pa.Array, source: str) -> None:
    if pt.is_integer(ids.type):
        values = as_numpy(ids)
        if (values[1:] > values[:-1]).all():
            return
        values = np.sort(values)
        unique = bool((values[1:] > values[:-1]).all())
    else:
        unique = pc.count_distinct(ids).as_py() == len(ids)
    if not unique:
        counts = ids.value_counts()
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise ValueError(f"{source}: duplicate row ids {_some(repeated)}: each row must be scored once")


def _require_both_classes(labels: np.ndarray, first: _FirstTable) -> None:
    if labels.all() or not labels.any():
        raise ValueError(
            f"{first.source}: every label (row ids {_some(first.row_ids)}) is {int(labels[0])}: a comparison needs both "
            "classes, use more rows"
        )


def _some(ids: pa.Array) -> str:
    """List the first few ids, and say how many there are."""
    text = ", ".join(str(value) for value in ids[:SHOWN].to_pylist())
    return text if len(ids) <= SHOWN else f"{text}, … ({len(ids):,} in all)"
