"""Amazon's reviews: JSON lines, plain, .gz or .zst, of 2014 and 2018 or of 2023.

    column       2014, 2018            2023             becomes
    user_id      reviewerID            user_id          text
    item_id      asin                  parent_asin      text (`asin` of 2023 is one colour or size of it)
    rating       overall               rating           float64
    timestamp    unixReviewTime (s)    timestamp (ms)   int64, milliseconds since 1970

A line that is no JSON object, or has a wrong type in a field that is asked for, goes to quarantine; a field that is
absent, null or an empty text is missing. The oldest files of 2014 hold Python instead of JSON, and are not read.
"""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, Part, Source, existing_file, require
from recsys_pipelines.sources.blocks import numbered_lines
from recsys_pipelines.sources.location import Place

SCHEMA = pa.schema(
    {"user_id": pa.string(), "item_id": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()}
)
FIELDS_2014 = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
FIELDS_2023 = {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
LATEST = 2**43  # milliseconds: the year 2248


class Amazon(Source):
    """The reviews of one file, `path`."""

    columns: tuple[str, ...] = tuple(SCHEMA.names)

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        self.files = [_Reviews(path)]

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        require(columns, self.columns, self.files[0].path)
        return self._parts_of_files(columns, first_row)


class _BadField(ValueError):
    """A line cannot be used. Arguments are the field or None, its value, and the reason."""


class _Reviews(File):
    schema = SCHEMA

    def __init__(self, path: Place) -> None:
        self.path = existing_file(path)

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        schema = pa.schema([SCHEMA.field(name) for name in dict.fromkeys(columns)])
        self.rows = 0
        for block, (first_line, texts) in enumerate(numbered_lines(self.path, self.read_to)):
            yield Part(block, partial(self._reviews, texts, first_line, first_row, schema))
            self.rows += len(texts)

    def _reviews(
        self, texts: list[bytes], first_line: int, first_row: int, schema: pa.Schema, quarantine: Quarantine
    ) -> Chunk:
        records, numbers = [], []
        for line, text in enumerate(texts, first_line):
            try:
                records.append(_review(text, schema.names))
                numbers.append(line)
            except _BadField as error:
                field, value, reason = error.args
                quarantine.add(str(self.path), first_row + line - 1, line, field, value, reason)
        lines = np.array(numbers, np.int64)
        return Chunk(pa.Table.from_pylist(records, schema), first_row + lines - 1, str(self.path), lines)


def _review(text: bytes, columns: Sequence[str]) -> dict[str, Any]:
    if not text.strip():
        raise _BadField(None, text, "blank line")
    try:
        review = json.loads(text)
    except (ValueError, RecursionError):
        raise _BadField(None, text, "not JSON") from None
    if not isinstance(review, dict):
        raise _BadField(None, text, "not a JSON object")
    old = "reviewerID" in review
    if not old and "user_id" not in review:
        raise _BadField(None, text, "neither reviewerID nor user_id")
    fields, milliseconds = (FIELDS_2014, 1000) if old else (FIELDS_2023, 1)
    values: dict[str, Any] = {}
    for name in columns:
        value = review.get(fields[name])
        try:
            values[name] = None if value in (None, "") else CONVERTERS[name](value)
        except (ValueError, OverflowError):
            raise _BadField(fields[name], value, REASONS[name]) from None
    if values.get("timestamp") is not None:
        values["timestamp"] *= milliseconds
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    value.encode()  # JSON can spell half a character
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _time(value: Any) -> int:
    if not _number(value).is_integer() or abs(value) > LATEST:
        raise ValueError
    return int(value)


CONVERTERS = {"user_id": _text, "item_id": _text, "rating": _number, "timestamp": _time}
REASONS = {"user_id": "not text", "item_id": "not text", "rating": "not a number", "timestamp": "not a time"}
