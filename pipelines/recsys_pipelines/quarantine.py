"""Rows that could not be used: counted, explained and shown, never silently dropped."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_cython_ext.files import new_path

MOST_EXAMPLES = 10_000  # of a quarantine; counts go on beyond it
MOST_CHARACTERS = 100  # of a value in an example


class TooManyBadRows(ValueError):
    """The share of rows in quarantine is above the limit."""


class BadRow(NamedTuple):
    """One row in quarantine. `row` counts from 0, `line` from 1 (None where the format has no lines)."""

    file: str
    row: int
    line: int | None
    field: str | None
    value: str
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}"
        return f"{self.file}, {place}: {self.value}"


class Quarantine:
    """Rows that cannot be used: counted by (field, reason), with the first ones as examples.

    Parts of a file can each fill a quarantine, to be merged in order. `count` is the number of rows added; each row is
    added once, under the first thing wrong with it.

    Args:
        limit: The share of rows that may be here.
        keep_all: Hold every row as an example.
    """

    def __init__(self, limit: float = 1.0, *, keep_all: bool = False) -> None:
        self.limit = limit
        self._most = None if keep_all else MOST_EXAMPLES
        self.count = 0
        self.reasons: Counter[tuple[str | None, str]] = Counter()
        self.examples: list[BadRow] = []
        self._first: dict[tuple[str | None, str], BadRow] = {}

    def add(self, file: str, row: int, line: int | None, field: str | None, value: Any, reason: str) -> None:
        """Add one row; `field` is None when the whole line is at fault, `value` is cut to `MOST_CHARACTERS`."""
        self.add_many(file, [row], None if line is None else [line], field, [value], reason)

    def add_many(
        self,
        file: str,
        rows: Sequence[int] | NDArray[np.int64],
        lines: Sequence[int] | NDArray[np.int64] | None,
        field: str | None,
        values: Sequence[Any] | pa.Array,
        reason: str,
    ) -> None:
        """Add rows [B] that share file, field and reason; `lines` may be None."""
        if len(rows) == 0:
            return
        self.count += len(rows)
        self.reasons[field, reason] += len(rows)
        take = len(rows)
        if self._most is not None:
            take = max(self._most - len(self.examples), 0 if (field, reason) in self._first else 1)
        first_values = _python(values[:take]) if isinstance(values, pa.Array) else values[:take]
        numbers = [None] * len(first_values) if lines is None else [int(line) for line in lines[:take]]
        examples = [
            BadRow(file, int(row), line, field, _text(value), reason)
            for row, line, value in zip(rows, numbers, first_values, strict=False)
        ]
        self._add_examples(examples)

    def merge(self, other: "Quarantine") -> None:
        """Add everything `other` holds; its examples come after this one's. `limit` stays."""
        self.count += other.count
        self.reasons.update(other.reasons)
        self._add_examples(other.examples)
        self._first = {**other._first, **self._first}

    def check(self, rows_read: int) -> None:
        """Raise `TooManyBadRows` when more than `limit` of `rows_read` (bad rows included) are here."""
        if self.count <= self.limit * rows_read:
            return
        share = self.count / rows_read if rows_read else 1.0
        commonest = "; ".join(
            f"{'' if field is None else f'{field}: '}{reason} ({rows:,} rows, as in "
            f"{self._first[field, reason]})"
            for (field, reason), rows in self.reasons.most_common(3)
        )
        raise TooManyBadRows(
            f"{self.count:,} of {rows_read:,} rows ({share:.2%}) cannot be used and quarantine_limit is "
            f"{self.limit:.2%}. Commonest: {commonest}. Correct the data, or raise the limit."
        )

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the examples as `write_bad_rows` does."""
        return write_bad_rows(self.examples, folder)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and examples, of which the last may be the first of their reason, ready for JSON."""
        examples = set(self.examples)
        return {
            "count": self.count,
            "reasons": [[field, reason, rows] for (field, reason), rows in self.reasons.items()],
            "examples": [*self.examples, *(e for e in self._first.values() if e not in examples)],
        }

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Quarantine":
        """Return the quarantine that `to_dict` described."""
        quarantine = cls(keep_all=True)
        quarantine.count = described["count"]
        quarantine.reasons.update({(field, reason): rows for field, reason, rows in described["reasons"]})
        quarantine._add_examples([BadRow(*example) for example in described["examples"]])
        return quarantine

    def _add_examples(self, examples: list[BadRow]) -> None:
        for example in examples:
            self._first.setdefault((example.field, example.reason), example)
        room = len(examples) if self._most is None else max(self._most - len(self.examples), 0)
        self.examples.extend(examples[:room])


def write_bad_rows(rows: Iterable[BadRow], folder: str | os.PathLike[str]) -> Path:
    """Write rows to `folder`/quarantine.csv, which appears only when complete."""
    path = Path(folder) / "quarantine.csv"
    with (
        new_path(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(BadRow._fields)
        writer.writerows(rows)
    return path


def _python(values: pa.Array) -> list[Any]:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.large_binary())  # for what is called a string and is no UTF-8
    return [_value(scalar) for scalar in values]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except ValueError:  # text that is no UTF-8 inside a list, times that Python cannot hold
        return f"<{scalar.type}>"


def _text(value: Any) -> str:
    r"""Write a value on one line, cut to `MOST_CHARACTERS`; bytes that are no UTF-8 appear as \xff."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value[: 4 * MOST_CHARACTERS].decode("utf-8", errors="backslashreplace")
    text = str(value)
    # Escaped, so that one row of quarantine.csv is one line in any viewer.
    cut = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MOST_CHARACTERS]
    )
    return cut + "…" if len(text) > MOST_CHARACTERS else cut
