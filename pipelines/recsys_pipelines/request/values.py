"""One value of a request as the number or the 64-bit id that a column of it would become, without Arrow.

The rules are those of `features.convert` and `features.derive`, value by value.
"""

import datetime as dt
import math
import re
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from recsys_cython_ext.hashing import MISSING_ID, text_id

TextIds = bool | Literal["uuid"]
EXACT = 2.0**53  # beyond it a float64 no longer holds every integer
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
NAMED = {"inf": math.inf, "infinity": math.inf, "nan": math.nan}


class Unreadable(ValueError):
    """A value that is not what a feature takes: why, and what it takes."""

    def __init__(self, reason: str, expected: str) -> None:
        super().__init__(reason)
        self.expected = expected


def is_missing(value: Any) -> bool:
    """Tell whether a value is missing: None, or a number that is none, as pandas writes it."""
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, float | np.floating | np.datetime64) and value != value)


def plain(value: Any) -> Any:
    """Return a NumPy scalar as the Python value that it is, and everything else as it came."""
    return value.item() if isinstance(value, np.generic) else value


def text_of(value: Any, expected: str = "text") -> str:
    """Return text, or bytes that are UTF-8, as text. Raises Unreadable for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Unreadable("not UTF-8 text", expected) from None
    raise Unreadable(f"{type(value).__name__} where text is needed", expected)


def id_of(value: Any, text: TextIds | None) -> int:
    """Return the id of a value: text by XXH64, UUIDs by their text, whole numbers by themselves; missing is `MISSING_ID`.

    text: whether training had text, and "uuid" where that was the text of UUIDs; None where it had no value.
    """
    if is_missing(value):
        return MISSING_ID
    value = plain(value)
    if isinstance(value, bytes) and text == "uuid":
        value = _uuid(value)
    if isinstance(value, str | bytes | uuid.UUID):
        if text is False:
            raise Unreadable("text, and training had integers, which have other ids", "an integer")
        return text_id(str(value) if isinstance(value, uuid.UUID) else text_of(value))
    number = whole_number(value, 2**64, "text" if text else "an integer")
    if text:
        raise Unreadable("a number, and training had text, which has other ids", "text")
    if number in (MISSING_ID, 2**63):
        raise Unreadable("-2^63 stands for a missing id, and so do the bits of 2^63", "another integer")
    return number - 2**64 if number >= 2**63 else number


def ids_of(value: Any, text: TextIds | None, separator: str | None) -> list[int]:
    """Return the ids of the elements of a list, or of text that is cut at `separator`; none of a missing value."""
    return [id_of(element, text) for element in elements(value, separator)]


def elements(value: Any, separator: str | None) -> Iterable[Any]:
    """Return the elements of a list, or of text cut at `separator`, whose empty pieces are missing."""
    if is_missing(value):
        return ()
    if isinstance(value, str | bytes) and separator is not None:
        text = text_of(value)
        return [piece or None for piece in text.split(separator)] if text else ()
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return value
    expected = "a list" if separator is None else f"a list, or text with {separator!r} between its elements"
    raise Unreadable(f"{type(value).__name__} where many values are declared", expected)


def number_of(value: Any) -> float:
    """Return a number, NaN where it is missing. Raises Unreadable for what is none, or infinite."""
    if is_missing(value):
        return math.nan
    value = plain(value)
    if isinstance(value, str | bytes):
        number = _parsed(text_of(value, "a number"))
    elif isinstance(value, bool | int | float | Decimal):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise Unreadable(f"{type(value).__name__} where a number is needed", "a number")
    if math.isinf(number):
        raise Unreadable("infinite", "a number")
    return number


def whole_number(value: Any, below: int, expected: str) -> int:
    """Return a whole number from -2^63 up to `below`. Raises Unreadable for anything else that is there."""
    reason = "not a whole number of 64 bits"
    if isinstance(value, float):
        if not (abs(value) <= EXACT and value == math.floor(value)):
            raise Unreadable(reason, expected)
    elif isinstance(value, Decimal):
        if not value.is_finite() or value != value.to_integral_value():
            raise Unreadable(reason, expected)
    elif not isinstance(value, int):
        raise Unreadable(f"{type(value).__name__} where {expected} is needed", expected)
    number = int(value)
    if not -(2**63) <= number < below:
        raise Unreadable(reason, expected)
    return number


def _parsed(text: str) -> float:
    if NUMBER.fullmatch(text):
        return float(text)
    sign = -1.0 if text.startswith("-") else 1.0
    named = NAMED.get(text.lstrip("+-").lower()) if len(text) - len(text.lstrip("+-")) <= 1 else None
    if named is None:
        raise Unreadable("not a number", "a number")
    return sign * named


def _uuid(value: bytes) -> uuid.UUID:
    try:
        return uuid.UUID(bytes=value)
    except ValueError:
        raise Unreadable("not the 16 bytes of a UUID, which training had", "a UUID") from None


def microseconds(moment: dt.datetime | dt.date) -> int:
    """Return microseconds since 1970 of a time or a day (UTC where it names no zone)."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day)
    zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return (zoned - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
