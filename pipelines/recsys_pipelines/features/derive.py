"""Columns made of others, row by row and without fitting: crosses, words, prefixes, parts of a date, weights.

Each is a `convert.Spec`: what does not convert sends its row to quarantine. Lists of nothing stand for missing text,
and `MISSING_ID` for a missing single value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from recsys_cython_ext import MISSING_ID, mix64, string_ids
from recsys_pipelines.features.convert import ColumnSpec
from recsys_pipelines.features.plain import (
    Converted,
    Problem,
    WrongType,
    has_no_value,
    list_array,
    list_lengths,
    lists,
    one_array,
    text_or_plain,
)
from recsys_pipelines.features.times import times

GOLDEN = np.int64(0x9E3779B97F4A7C15 - 2**64)
WORD = r"[\p{L}\p{N}]+"


def combined(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One 64-bit id [B] of several ids [B] each, in their order; `MISSING_ID` where all are missing.

    h = mix64(first), then h = mix64(h · 0x9E3779B97F4A7C15 + next), modulo 2^64.
    """
    out = mix64(ids[0])
    for values in ids[1:]:
        out = mix64(out * GOLDEN + values)
    out += out == MISSING_ID
    out[np.all([values == MISSING_ID for values in ids], axis=0)] = MISSING_ID
    return out


@dataclass(frozen=True)
class Cross:
    """int64 [B]: `combined` ids of several columns; a missing value is one of a column's values."""

    columns: tuple[str, ...]

    @property
    def id_columns(self) -> dict[str, str]:
        """All, under their own names."""
        return {column: column for column in self.columns}

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        ids, problems = [], []
        for place, (name, raw) in enumerate(zip(self.columns, columns, strict=True)):
            try:
                values, found = ColumnSpec(name, "id").convert([raw])
            except WrongType as error:
                raise WrongType(str(error), place) from None
            ids.append(values.to_numpy())
            problems += [Problem(problem.bad, problem.reason, place) for problem in found]
        return pa.array(combined(ids)), problems


@dataclass(frozen=True)
class Tokens:
    """list<int64> [B]: ids of the first `most` words of a text, then of its pairs of neighbours, triples, …"""

    column: str
    lowercase: bool = True
    ngrams: int = 1
    most: int = 64
    id_columns: Mapping[str, str] = field(default_factory=dict, init=False)  # words are text

    @property
    def columns(self) -> tuple[str, ...]:
        """One."""
        return (self.column,)

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        text, problems = _text(columns[0])
        cased = text.str.to_lowercase() if self.lowercase else text
        words = cased.str.extract_all(WORD).list.head(self.most).to_arrow()
        ids, lengths = string_ids(one_array(pc.list_flatten(words))), list_lengths(words)
        of_row = np.repeat(np.arange(len(lengths)), lengths)
        grams, rows = [ids], [of_row]
        for n in range(2, self.ngrams + 1):  # an n-gram begins where its last word is of the same row
            starts = np.flatnonzero(of_row[: len(ids) - n + 1] == of_row[n - 1 :])
            grams.append(combined([ids[starts + place] for place in range(n)]))
            rows.append(of_row[starts])
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        found = np.bincount(row, minlength=len(lengths))
        return list_array(found, pa.array(np.concatenate(grams)[order])), problems


@dataclass(frozen=True)
class Prefixes:
    """list<int64> [B]: ids of the first n characters of a text for each n of `lengths` that it has."""

    column: str
    lengths: tuple[int, ...]
    id_columns: Mapping[str, str] = field(default_factory=dict, init=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """One."""
        return (self.column,)

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        text, problems = _text(columns[0])
        characters = text.str.len_chars().fill_null(0).to_numpy()
        has = np.stack([characters >= n for n in self.lengths], axis=1)  # [B, n]
        ids = np.stack([string_ids(text.str.head(n).to_arrow()) for n in self.lengths], axis=1)
        return list_array(has.sum(axis=1), pa.array(ids[has])), problems


def _weekend(time: pa.Array) -> pa.Array:
    return pc.greater_equal(pc.day_of_week(time), 5)


PARTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "hour": pc.hour,
    "weekday": pc.day_of_week,  # 0 is Monday
    "weekend": _weekend,
    "day": pc.day,
    "month": pc.month,
    "year": pc.year,
}
# The values of each part that are known without looking at data.
VALUES = {
    "hour": range(24),
    "weekday": range(7),
    "weekend": range(2),
    "day": range(1, 32),
    "month": range(1, 13),
}


@dataclass(frozen=True)
class DatePart:
    """int64 [B]: a part of a time (UTC); `format` as in `config.DateConfig`."""

    column: str
    part: str
    format: str = "seconds"
    id_columns: Mapping[str, str] = field(default_factory=dict, init=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """One."""
        return (self.column,)

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        time, problems = times(columns[0], self.format)
        part = pc.cast(PARTS[self.part](time), pa.int64())
        return pc.fill_null(part, MISSING_ID), problems


@dataclass(frozen=True)
class Events:
    """list<int64> [B]: a sequence as a request brings it, a list in the column `name` of what `column` would hold.

    The last `length` of its events, oldest first; a missing one never is an event.
    """

    name: str
    column: str
    length: int
    separator: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """One."""
        return (self.name,)

    @property
    def id_columns(self) -> dict[str, str]:
        """What it holds is what the log has in `column`."""
        return {self.name: self.column}

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        found, problems = ColumnSpec(self.name, "ids", self.separator).convert(columns)
        ids = found.flatten().to_numpy()
        row = np.repeat(np.arange(len(found)), list_lengths(found))
        ids, row = ids[ids != MISSING_ID], row[ids != MISSING_ID]
        lengths = np.bincount(row, minlength=len(found))
        from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
        kept = from_end <= self.length
        return list_array(np.minimum(lengths, self.length), pa.array(ids[kept])), problems


@dataclass(frozen=True)
class Weights:
    """list<float32> [B]: the weights of the elements of `ids`, finite numbers; rows of another length are bad."""

    ids: str
    column: str
    separator: str | None = None
    id_columns: Mapping[str, str] = field(default_factory=dict, init=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The weights, then what they weigh."""
        return self.column, self.ids

    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        """As `Spec.convert`."""
        plain, not_text = text_or_plain(columns[0])
        weights, ids = lists(plain, self.separator), lists(text_or_plain(columns[1])[0], self.separator)
        lengths = list_lengths(weights)
        values, problems = ColumnSpec(self.column, "number").convert([one_array(pc.list_flatten(weights))])
        row = np.repeat(np.arange(len(lengths)), lengths)
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float32)
        missing = Problem(np.isnan(numbers), "missing weight")
        found = [
            Problem(np.bincount(row[p.bad], minlength=len(lengths)) > 0, p.reason)
            for p in (*problems, missing, Problem(np.isinf(numbers), "outside float32"))
        ]
        other = Problem(lengths != list_lengths(ids), f"not as many weights as {self.ids} has elements")
        return list_array(lengths, pa.array(numbers)), [*not_text, *found, other]


def _text(raw: pa.Array) -> tuple[pl.Series, list[Problem]]:
    plain, problems = text_or_plain(raw)
    if has_no_value(plain):
        plain = pa.nulls(len(plain), pa.string())
    if not pt.is_string(plain.type):
        raise WrongType("text is needed here: convert the column")
    return pl.Series(pl.from_arrow(plain), dtype=pl.String), problems
