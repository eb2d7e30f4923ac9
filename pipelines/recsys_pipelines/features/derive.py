"""Columns made of others, row by row and without fitting: crosses, words, prefixes, parts of a date, weights.

Each is a `convert.Spec`: what does not convert sends its row to quarantine. Lists of nothing stand for missing text,
and `MISSING_ID` for a missing single value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray
from typing_extensions import override

from recsys_cython_ext import MISSING_ID, mix64, string_ids
from recsys_pipelines.features.convert import ColumnSpec, OneColumn, Spec
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
    """Make one 64-bit id [B] of several ids [B] each, in their order; `MISSING_ID` where all are missing.

    h = mix64(first), then h = mix64(h · 0x9E3779B97F4A7C15 + next), modulo 2^64.
    """
    hashed = mix64(ids[0])
    for values in ids[1:]:
        hashed = mix64(hashed * GOLDEN + values)
    hashed += hashed == MISSING_ID
    hashed[np.all([values == MISSING_ID for values in ids], axis=0)] = MISSING_ID
    return hashed


@dataclass(frozen=True)
class Cross(Spec):
    """The `combined` ids of several columns, int64 [B]; a missing value is one of a column's values."""

    crossed: tuple[str, ...]

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return self.crossed

    @property
    @override
    def id_columns(self) -> Mapping[str, str]:
        return {column: column for column in self.columns}

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        ids, problems = [], []
        for place, (name, raw) in enumerate(zip(self.columns, columns, strict=True)):
            try:
                values, problems_of_column = ColumnSpec(name, "id").convert([raw])
            except WrongType as error:
                raise WrongType(str(error), place) from None
            ids.append(values.to_numpy())
            problems += [Problem(problem.bad, problem.reason, place) for problem in problems_of_column]
        return pa.array(combined(ids)), problems


@dataclass(frozen=True)
class Tokens(OneColumn):
    """Ids of the first `most` words of a text, then of its pairs of neighbours, triples and so on: list<int64> [B]."""

    lowercase: bool = True
    ngrams: int = 1
    most: int = 64

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
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
        grams_of_row = np.bincount(row, minlength=len(lengths))
        return list_array(grams_of_row, pa.array(np.concatenate(grams)[order])), problems


@dataclass(frozen=True)
class Prefixes(OneColumn):
    """Ids of the first n characters of a text for each n of `lengths` that it has: list<int64> [B]."""

    lengths: tuple[int, ...]

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
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
class DatePart(OneColumn):
    """A part of a time (UTC), int64 [B]; `format` is that of `config.DateConfig`."""

    part: str
    format: str = "seconds"

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        time, problems = times(columns[0], self.format)
        part = pc.cast(PARTS[self.part](time), pa.int64())
        return pc.fill_null(part, MISSING_ID), problems


@dataclass(frozen=True)
class Events(Spec):
    """A sequence as a request brings it, list<int64> [B]: a list in the column `name` of what `column` would hold.

    It is cut to the last `length` of its events, oldest first; a missing one never is an event.
    """

    name: str
    column: str
    length: int
    separator: str | None = None

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    @override
    def id_columns(self) -> Mapping[str, str]:
        return {self.name: self.column}

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        events, problems = ColumnSpec(self.name, "ids", self.separator).convert(columns)
        ids = events.flatten().to_numpy()
        row = np.repeat(np.arange(len(events)), list_lengths(events))
        ids, row = ids[ids != MISSING_ID], row[ids != MISSING_ID]
        lengths = np.bincount(row, minlength=len(events))
        from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
        latest = from_end <= self.length
        return list_array(np.minimum(lengths, self.length), pa.array(ids[latest])), problems


@dataclass(frozen=True)
class Weights(Spec):
    """The weights of the elements of `ids`, finite numbers, list<float32> [B]; rows of another length are bad."""

    ids: str
    column: str
    separator: str | None = None

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return self.column, self.ids

    @property
    @override
    def id_columns(self) -> Mapping[str, str]:
        return {}

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        plain, not_text = text_or_plain(columns[0])
        weights, ids = lists(plain, self.separator), lists(text_or_plain(columns[1])[0], self.separator)
        lengths = list_lengths(weights)
        values, problems = ColumnSpec(self.column, "number").convert([one_array(pc.list_flatten(weights))])
        row = np.repeat(np.arange(len(lengths)), lengths)
        with np.errstate(over="ignore"):
            numbers = values.to_numpy(zero_copy_only=False).astype(np.float32)
        missing = Problem(np.isnan(numbers), "missing weight")
        problems_of_rows = [
            Problem(np.bincount(row[p.bad], minlength=len(lengths)) > 0, p.reason)
            for p in (*problems, missing, Problem(np.isinf(numbers), "outside float32"))
        ]
        other = Problem(lengths != list_lengths(ids), f"not as many weights as {self.ids} has elements")
        return list_array(lengths, pa.array(numbers)), [*not_text, *problems_of_rows, other]


def _text(raw: pa.Array) -> tuple[pl.Series, list[Problem]]:
    plain, problems = text_or_plain(raw)
    if has_no_value(plain):
        plain = pa.nulls(len(plain), pa.string())
    if not pt.is_string(plain.type):
        raise WrongType("text is needed here: convert the column")
    return pl.Series(pl.from_arrow(plain), dtype=pl.String), problems
