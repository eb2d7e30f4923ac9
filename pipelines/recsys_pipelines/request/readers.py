"""What a column of the model is made of in a request: source columns, and how their values are read.

A reader does for one row what a `features.convert.Spec` does for a column, without Arrow or Polars, and is written into
an exported folder.
"""

import datetime as dt
import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_cython_ext.hashing import MISSING_ID, mix64, text_id
from recsys_cython_ext.values import UnreadableAt, ids_of_values, numbers_of_values
from recsys_pipelines.encoding.numbers import FLOAT32_MAX, squared_log
from recsys_pipelines.request.values import (
    TextIds,
    Unreadable,
    elements,
    id_of,
    ids_of,
    is_missing,
    microseconds,
    number_of,
    plain,
    text_of,
    whole_number,
)
from recsys_pipelines.strict import Strict

GOLDEN = 0x9E3779B97F4A7C15
WORD = re.compile(r"[^\W_]+")  # letters and numbers of Unicode
LATEST = 2**43  # of times as numbers; in milliseconds the year 2248
UNITS = {"seconds": 1_000_000, "milliseconds": 1_000}  # microseconds
ISO = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})(?:[T ](?P<minute>[01]\d:[0-5]\d|2[0-3]:[0-5]\d)(?::(?P<second>[0-5]\d)"
    r"(?:[.,](?P<fraction>\d{1,9}))?)?\s?(?P<zone>[Zz]|[+-]\d{2}(?::?[0-5]\d)?)?)?",
    re.ASCII,
)


class ColumnReader(Strict):
    """A reader of source columns: `read` takes the values that a row has in them, in the order of `columns`."""

    many: ClassVar[bool] = False  # whether a row has a list of what is read

    @abstractmethod
    def read(self, values: Sequence[Any]) -> Any:
        """Return what the values of a row say. Raises Unreadable where they say nothing."""

    def read_rows(self, columns: Sequence[Sequence[Any]]) -> Any:
        """Return what the values of each row say, of columns of n values each. Raises UnreadableAt for a row's."""
        out = []
        for row, values in enumerate(zip(*columns, strict=True)):
            try:
                out.append(self.read(values))
            except ValueError as error:
                raise UnreadableAt(row) from error
        return out


class OneColumn(ColumnReader):
    """A reader of one source column."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the source columns, the one whose value is wrong first."""
        return (self.column,)


class IdReader(OneColumn):
    """An id, of text or of a whole number."""

    kind: Literal["id"] = "id"
    text: TextIds | None

    @override
    def read(self, values: Sequence[Any]) -> int:
        return id_of(values[0], self.text)

    @override
    def read_rows(self, columns: Sequence[Sequence[Any]]) -> np.ndarray:
        def read(value: Any) -> int:
            return id_of(value, self.text)

        return ids_of_values(columns[0], read, texts=self.text is not False, integers=not self.text)


class IdsReader(OneColumn):
    """Ids of the elements of a list; `last` keeps so many of its end, without missing ones: a sequence of events."""

    many: ClassVar[bool] = True
    kind: Literal["ids"] = "ids"
    text: TextIds | None
    separator: str | None = None
    last: int | None = None

    def read(self, values: Sequence[Any]) -> list[int]:
        """Return the ids."""
        ids = ids_of(values[0], self.text, self.separator)
        return ids if self.last is None else [one for one in ids if one != MISSING_ID][-self.last :]


class NumberReader(OneColumn):
    """A number, NaN where it is missing."""

    kind: Literal["number"] = "number"

    @override
    def read(self, values: Sequence[Any]) -> float:
        return number_of(values[0])

    @override
    def read_rows(self, columns: Sequence[Sequence[Any]]) -> np.ndarray:
        return numbers_of_values(columns[0], number_of)


class SquaredLogReader(OneColumn):
    """A number as the id of its bucket, floor(ln(x)^2)."""

    kind: Literal["squared_log"] = "squared_log"

    def read(self, values: Sequence[Any]) -> int:
        """Return the bucket's number as an id."""
        bucket = float(squared_log(np.array([number_of(values[0])]))[0])
        if bucket <= -(2.0**63) or bucket >= 2.0**63:
            raise Unreadable("outside int64", "a number")
        return MISSING_ID if math.isnan(bucket) else int(bucket)


class CrossReader(ColumnReader):
    """One id of the ids of several columns."""

    kind: Literal["cross"] = "cross"
    columns: tuple[str, ...]
    texts: tuple[TextIds | None, ...]

    def read(self, values: Sequence[Any]) -> int:
        """Return the combined id."""
        return combined([id_of(value, text) for value, text in zip(values, self.texts, strict=True)])


class TokensReader(OneColumn):
    """Ids of the words of a text, and of their n-grams."""

    many: ClassVar[bool] = True
    kind: Literal["tokens"] = "tokens"
    lowercase: bool
    ngrams: int
    most: int

    def read(self, values: Sequence[Any]) -> list[int]:
        """Return ids of words, of pairs of neighbours, and so on."""
        if is_missing(values[0]):
            return []
        text = text_of(values[0])
        words = WORD.findall(text.lower() if self.lowercase else text)[: self.most]
        ids = [text_id(word) for word in words]
        grams = [
            combined(ids[start : start + n])
            for n in range(2, self.ngrams + 1)
            for start in range(len(ids) - n + 1)
        ]
        return ids + grams


class PrefixesReader(OneColumn):
    """Ids of the first n characters of a text."""

    many: ClassVar[bool] = True
    kind: Literal["prefixes"] = "prefixes"
    lengths: tuple[int, ...]

    def read(self, values: Sequence[Any]) -> list[int]:
        """Return an id for each length that the text has."""
        if is_missing(values[0]):
            return []
        text = text_of(values[0])
        return [text_id(text[:n]) for n in self.lengths if len(text) >= n]


class DatePartReader(OneColumn):
    """A part of a time (UTC)."""

    kind: Literal["date"] = "date"
    part: Literal["hour", "weekday", "weekend", "day", "month", "year"]
    format: str

    def read(self, values: Sequence[Any]) -> int:
        """Return the part's number as an id."""
        value = plain(values[0])
        if is_missing(value):
            return MISSING_ID
        days, rest = divmod(time_of(value, self.format), 86_400_000_000)
        if self.part == "hour":
            return rest // 3_600_000_000
        weekday = (days + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
        if self.part in ("weekday", "weekend"):
            return weekday if self.part == "weekday" else int(weekday >= 5)
        day = np.datetime64(days, "D")
        if self.part == "year":
            return int(day.astype("datetime64[Y]").astype(int)) + 1970
        if self.part == "month":
            return int(day.astype("datetime64[M]").astype(int)) % 12 + 1
        return int((day - day.astype("datetime64[M]")).astype(int)) + 1


class WeightsReader(OneColumn):
    """The weights of the elements of a list in `ids`."""

    many: ClassVar[bool] = True
    kind: Literal["weights"] = "weights"
    ids: str
    separator: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the column of weights, and that of ids."""
        return self.column, self.ids

    def read(self, values: Sequence[Any]) -> list[float]:
        """Return a finite number for each element."""
        expected = f"as many numbers as {self.ids} has elements"
        weights = [number_of(value) for value in elements(values[0], self.separator)]
        if any(math.isnan(weight) for weight in weights):
            raise Unreadable("missing weight", expected)
        if any(abs(weight) > FLOAT32_MAX and math.isinf(_float32(weight)) for weight in weights):
            raise Unreadable("outside float32", expected)
        if len(weights) != len(list(elements(values[1], self.separator))):
            raise Unreadable(f"not as many weights as {self.ids} has elements", expected)
        return weights


Reader = Annotated[
    IdReader
    | IdsReader
    | NumberReader
    | SquaredLogReader
    | CrossReader
    | TokensReader
    | PrefixesReader
    | DatePartReader
    | WeightsReader,
    Field(discriminator="kind"),
]


def _float32(number: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(number)


def combined(ids: Sequence[int]) -> int:
    """Make one id of several, in their order, as `features.derive.combined` does."""
    if all(one == MISSING_ID for one in ids):
        return MISSING_ID
    hashed = _mixed(ids[0])
    for one in ids[1:]:
        hashed = _mixed(hashed * GOLDEN + one)
    return hashed + (hashed == MISSING_ID)


def _mixed(word: int) -> int:
    return int(mix64(np.array([word % 2**64], np.uint64))[0])


def time_of(value: Any, form: str) -> int:
    """Return microseconds since 1970 of a time, a day, a number of a unit, ISO 8601, or text of a strptime pattern."""
    if isinstance(value, dt.datetime | dt.date):
        return microseconds(value)
    if form in UNITS:
        expected = f"{form} since 1970"
        number = _whole_text(value, expected) if isinstance(value, str | bytes) else value
        whole = whole_number(number, 2**63, expected)
        if abs(whole) > LATEST:
            raise Unreadable(f"not {expected}", expected)
        return whole * UNITS[form]
    text = (
        text_of(value)
        if isinstance(value, str | bytes)
        else str(whole_number(value, 2**63, f"a time of the format {form}"))
    )
    return _iso(text) if form == "iso" else _of_pattern(text, form)


def _whole_text(value: str | bytes, expected: str) -> int | float:
    text = text_of(value, expected)
    return int(text) if re.fullmatch(r"[+-]?\d+", text, re.ASCII) else number_of(text)


def _iso(text: str) -> int:
    expected = "a time such as 2017-11-07 09:30:38"
    if (match := ISO.fullmatch(text)) is None:
        raise Unreadable(f"not {expected}", expected)
    moment = f"{match['day']} {match['minute'] or '00:00'}:{match['second'] or '00'}"
    try:
        parsed = dt.datetime.strptime(moment, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        raise Unreadable(f"not {expected}", expected) from None
    micro = int((match["fraction"] or "0").ljust(6, "0")[:6])
    zone = (match["zone"] or "").upper().replace("Z", "+00").replace(":", "").ljust(5, "0")
    minutes = int(zone[1:3]) * 60 + int(zone[3:5]) if match["zone"] else 0
    return microseconds(parsed) + micro - (-1 if zone.startswith("-") else 1) * minutes * 60_000_000


def _of_pattern(text: str, pattern: str) -> int:
    try:
        parsed = dt.datetime.strptime(text, pattern)
    except ValueError:
        parsed = None
    if parsed is None or parsed.strftime(pattern) != text:  # strptime alone takes 7 digits for 8
        raise Unreadable(f"not a time of the format {pattern}", f"a time of the format {pattern}")
    return microseconds(parsed)
