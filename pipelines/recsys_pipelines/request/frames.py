"""Frames of rows, Arrow's or Polars', become what a served model reads, a column at a time.

Only what is asked of a frame imports this module: rows as dicts need neither library.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.types as pt

from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.manifest import read_manifest
from recsys_pipelines.features import Features
from recsys_pipelines.features.base import floats
from recsys_pipelines.features.features import CONFIGS, FEATURES, FORMAT_VERSION, SavedFeatures
from recsys_pipelines.features.plain import one_array
from recsys_pipelines.request.inputs import Lists
from recsys_pipelines.request.transform import BadRequest, Encoded, RequestTransform


class FrameTransform:
    """The transform of frames: `Features` of an exported folder make columns typed, which are encoded as requests are."""

    def __init__(self, features: Features, requests: RequestTransform) -> None:
        self.features = features
        self._requests = requests

    def encode(self, frame: Any) -> Encoded:
        """Encode a `pyarrow.Table`, a `pyarrow.RecordBatch` or a `polars.DataFrame` of source columns.

        A column that is absent is missing. Raises BadRequest as `RequestTransform.encode` does, and for columns that are
        damaged; TypeError for a frame of another kind.
        """
        table = self._with_all_columns(table_of(frame))
        try:
            typed = self.features.typed(table)
        except ValueError as error:
            return self._requests.encode(_as_dicts(table, error))  # which names the row
        return self.encode_typed(typed)

    def encode_typed(self, typed: pa.Table) -> Encoded:
        """Encode rows whose columns are typed already (`features.convert.typed`), such as those of a file."""
        read = {name: _read(one_array(typed[name])) for name in self.features.serving_specs()}
        return self._requests.encode_read(read, typed.num_rows)

    def _with_all_columns(self, table: pa.Table) -> pa.Table:
        """Return exactly the columns that features read; one without a value has no type, as one that is absent."""
        known = self._requests.columns
        for place, name in enumerate(table.column_names):
            _require_sound(name, table.column(place))  # before a value is read
            value = _shown(table.column(place)[0]) if table.num_rows else None
            if name not in known:
                self._requests.refuse(0, name, value)
            if table.column_names.index(name) < place:
                raise BadRequest(0, name, value, "one column", "two columns are called this")
        nothing = pa.nulls(table.num_rows)
        columns = {name: table[name] if name in table.column_names else nothing for name in known}
        return pa.table(
            {
                name: nothing if column.null_count == table.num_rows else column
                for name, column in columns.items()
            }
        )


def table_of(frame: Any) -> pa.Table:
    """Return a frame as an Arrow table. Raises TypeError for what is none."""
    if isinstance(frame, pl.DataFrame):
        return frame.to_arrow()
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if isinstance(frame, pa.Table):
        return frame
    raise TypeError(
        "rows are a dict, a list of dicts, a pyarrow Table or RecordBatch, or a polars DataFrame, not "
        f"{type(frame).__module__}.{type(frame).__qualname__}"
    )


def declared(folder: str | os.PathLike[str]) -> Features:
    """Read the declarations of features that were saved, without what was fitted: they make columns typed, and no codes.

    Raises ValueError on damage or another version.
    """
    versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
    saved = read_manifest(Path(folder) / FEATURES, SavedFeatures, versions, "export again")
    return Features((), CONFIGS.validate_python(saved.configs), saved.text, saved.unsigned)


def _read(column: pa.Array) -> Any:
    """Return a typed column as a reader of requests gives it."""
    if pt.is_list(column.type):
        offsets = column.offsets.to_numpy().astype(np.int64)
        return Lists(column.flatten().to_numpy(), offsets - offsets[0])
    return floats(column) if pt.is_floating(column.type) else column.to_numpy()


def _require_sound(name: str, column: pa.ChunkedArray) -> None:
    """Raise BadRequest for a column whose buffers are not what its type says, which a stream may send."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        expected = f"a sound column of {column.type}"
        raise BadRequest(_first_unsound(column), name, f"<{column.type}>", expected, str(error)) from None


def _first_unsound(column: pa.ChunkedArray) -> int:
    for row in range(len(column)):
        try:
            column.slice(row, 1).validate(full=True)
        except pa.ArrowException:
            return row
    return 0


def _as_dicts(table: pa.Table, error: ValueError) -> list[dict[str, Any]]:
    """Return rows as dicts; `error`, which asks for them, is raised where Python has not their values."""
    for place, name in enumerate(table.column_names):
        kind = table[name].type
        if pt.is_timestamp(kind):  # nanoseconds, which Python's times have not, are cut as columns cut them
            column = table[name].cast(pa.timestamp("us", kind.tz), safe=False)
            table = table.set_column(place, name, column)
    try:
        return table.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        raise error from None


def _shown(value: pa.Scalar) -> Any:
    """Return a value for an error, or its type where Python has no such value."""
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return f"<{value.type}>"
