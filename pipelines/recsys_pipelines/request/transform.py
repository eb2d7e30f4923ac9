"""Rows as dicts become what the model reads, without Arrow or Polars: what a request is answered with.

    <folder>/request.json               the inputs, in the order of their declaration
    <folder>/<place>.<name>.npy         arrays of the input in that place, which are mapped

`write.write_request` makes one of fitted features, and `Features.transform` gives the same numbers.
"""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.manifest import Manifest, read_manifest
from recsys_cython_ext.values import UnreadableAt
from recsys_pipelines.request.blocks import IdBlock, NumberBlock
from recsys_pipelines.request.inputs import (
    Bags,
    BucketsInput,
    CategoricalInput,
    Input,
    Lists,
    NumericInput,
    StatisticInput,
)
from recsys_pipelines.request.readers import Reader, WeightsReader
from recsys_pipelines.request.values import Unreadable

FORMAT_VERSION = 1
REQUEST = "request.json"
EMPTY: Mapping[str, Any] = MappingProxyType({})
MOST_SELECTIONS = 64  # of features, that are kept ready


class BadRequest(ValueError):
    """A row that cannot be read: which, its field, the value, and what is expected there."""

    def __init__(self, row: int, feature: str, value: Any, expected: str, reason: str) -> None:
        super().__init__(f"row {row}, {feature}: {reason} ({_short(value)}); expected {expected}")
        self.row, self.feature, self.value, self.expected, self.reason = row, feature, value, expected, reason

    def after(self, rows: int) -> "BadRequest":
        """Return the same of a row that so many others come before, as where rows are encoded in parts."""
        return BadRequest(self.row + rows, self.feature, self.value, self.expected, self.reason)


class SavedRequest(Manifest):
    """The content of request.json."""

    format_version: int
    hash_version: int
    inputs: list[Input]


@dataclass(frozen=True)
class Encoded:
    """What the model reads of n rows.

    Attributes:
        rows: n.
        dense: Numbers, float32 [n, k], in the order of declaration.
        numbers: The feature that each of the k columns is of.
        ids: Encoded ids, int64 [S, n], of features with one a row.
        singles: Those features.
        bags: Encoded ids of features with lists of them.
        missing: Values that were missing, by feature; those with none are left out.
        unknown: Ids outside the vocabulary, by feature, likewise.
    """

    rows: int
    dense: np.ndarray
    numbers: tuple[str, ...]
    ids: np.ndarray
    singles: tuple[str, ...]
    bags: dict[str, Bags]
    missing: dict[str, int]
    unknown: dict[str, int]


class _Selection:
    """Some of the inputs, those that are encoded together in one block."""

    def __init__(self, inputs: Sequence[tuple[Input, Any]]) -> None:
        numbers: list[Any] = [pair for pair in inputs if _has_numbers(pair[0])]
        ids: list[Any] = [pair for pair in inputs if _has_one_id(pair[0])]
        self._bags: list[Any] = [
            pair for pair in inputs if not _has_numbers(pair[0]) and not _has_one_id(pair[0])
        ]
        self._numbers, self._ids = NumberBlock(numbers), IdBlock(ids)
        self._readers = [pair for one, _ in numbers + ids + self._bags for pair in one.readers.items()]
        self._names = [[one.name for one, _ in pairs] for pairs in (numbers, ids)]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the feature of each column of numbers."""
        return self._numbers.features

    def encode(self, column: Callable[[str], Sequence[Any]], rows: int) -> Encoded:
        """Encode n rows, of which `column` returns the values that a source column has in them."""
        return self.encode_read({name: _read(reader, column) for name, reader in self._readers}, rows)

    def encode_read(self, read: Mapping[str, Any], rows: int) -> Encoded:
        """Encode n rows of which this was read, by the names of the readers: an array [n], or `Lists`."""
        of_numbers, of_ids = ([read[name] for name in names] for names in self._names)
        dense, *absent = self._numbers.encode(of_numbers, rows)
        ids, *outside = self._ids.encode(of_ids, rows)
        bags = {one.name: one.bags(read, state) for one, state in self._bags}
        missing, unknown = (
            {
                name: count
                for names, counts in zip(self._names, (of_number, of_id), strict=True)
                for name, count in zip(names, counts, strict=True)
                if count
            }
            for of_number, of_id in zip(absent, outside, strict=True)
        )
        missing |= {name: of_feature.missing for name, of_feature in bags.items() if of_feature.missing}
        unknown |= {name: of_feature.unknown for name, of_feature in bags.items() if of_feature.unknown}
        return Encoded(rows, dense, self._numbers.features, ids, self._ids.features, bags, missing, unknown)


class RequestTransform:
    """The transform of an exported folder. Raises DamagedFile or OtherVersion for a folder that is none."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        saved = read_manifest(folder / REQUEST, SavedRequest, versions, "export again")
        states: list[Any] = [one.state(_mapped(folder, place)) for place, one in enumerate(saved.inputs)]
        owners = {one.name: place for place, one in enumerate(saved.inputs)}
        for place, one in enumerate(saved.inputs):
            if isinstance(one, CategoricalInput) and one.like is not None:
                states[place] = states[owners[one.like]]
        self._inputs = list(zip(saved.inputs, states, strict=True))
        readers = _readers(self._inputs)
        self.columns = sorted({column for reader in readers for column in reader.columns})
        self._known = frozenset(self.columns)
        self.inputs = tuple(saved.inputs)
        self.features = tuple(one.name for one in saved.inputs)
        self._selections: dict[frozenset[str], _Selection] = {}
        self.numbers = self._selected(self.features).numbers  # the feature of each column of `Encoded.dense`

    def encode(
        self,
        rows: Sequence[Mapping[str, Any]],
        only: Collection[str] | None = None,
        context: Mapping[str, Any] = EMPTY,
    ) -> Encoded:
        """Encode rows, dicts of source columns: a column that is absent or None is missing.

        Args:
            rows: n of them.
            only: Features that are encoded; all of them unless given.
            context: Columns of every row that has none of that name.

        Raises:
            BadRequest: No feature reads a column, or a feature cannot read its value.
        """
        self._require_known(rows)

        def column(name: str) -> Sequence[Any]:
            common = context.get(name)
            return [row.get(name, common) for row in rows]

        return self._selected(self.features if only is None else only).encode(column, len(rows))

    def encode_read(self, read: Mapping[str, Any], rows: int) -> Encoded:
        """Encode n rows of which this was read, as `readers` would: by their names an array [n], or `Lists`."""
        return self._selected(self.features).encode_read(read, rows)

    def _selected(self, features: Collection[str]) -> _Selection:
        chosen = frozenset(features)
        selection = self._selections.get(chosen)
        if selection is None:
            if len(self._selections) >= MOST_SELECTIONS:  # requests choose them, so there is a limit
                self._selections.clear()
            selection = _Selection([(one, state) for one, state in self._inputs if one.name in chosen])
            self._selections[chosen] = selection
        return selection

    def features_of(self, columns: Container[str]) -> set[str]:
        """Return the features that read some of these columns."""
        return {
            one.name
            for one, _ in self._inputs
            if any(column in columns for reader in one.readers.values() for column in reader.columns)
        }

    def ids_of(self, feature: str, values: Sequence[Any]) -> np.ndarray:
        """Return the encoded ids, int64 [n], of values of the column that a single-valued feature of ids reads.

        Raises BadRequest as `encode` does, and ValueError where the feature is none, or of several columns or values.
        """
        one = dict(zip(self.features, (one for one, _ in self._inputs), strict=True)).get(feature)
        if one is None or not _has_one_id(one) or len(one.reader.columns) > 1:
            raise ValueError(f"{feature!r} is no feature of one id of one column")
        (column,) = one.reader.columns
        return self.encode([{column: value} for value in values], {feature}).ids[0]

    def _require_known(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for number, row in enumerate(rows):
            if not self._known.issuperset(row):
                column = next(column for column in row if column not in self._known)
                self.refuse(number, column, row[column])

    def refuse(self, row: int, column: str, value: Any) -> NoReturn:
        """Raise BadRequest for a column that no feature reads."""
        known = ", ".join(self.columns)
        raise BadRequest(row, str(column), value, f"one of {known}", "no feature reads this column")


def _readers(inputs: Sequence[tuple[Input, Any]]) -> list[Reader]:
    return [reader for one, _ in inputs for reader in one.readers.values()]


def _has_numbers(one: Input) -> bool:
    return isinstance(one, NumericInput | StatisticInput)


def _has_one_id(one: Input) -> bool:
    return isinstance(one, CategoricalInput | BucketsInput) and not one.reader.many


def _read(reader: Reader, column: Callable[[str], Sequence[Any]]) -> Any:
    values = [column(name) for name in reader.columns]
    try:
        read: Any = reader.read_rows(values)
    except UnreadableAt as error:
        bad = [of_column[error.position] for of_column in values]
        raise _bad(error.position, reader.columns, bad, error.__cause__) from None
    return (
        Lists.of(read, np.float32 if isinstance(reader, WeightsReader) else np.int64) if reader.many else read
    )


def _mapped(folder: Path, place: int) -> dict[str, np.ndarray]:
    files = folder.glob(f"{place}.*.npy")
    return {
        file.name.split(".")[1]: np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for file in files
    }


def _bad(
    number: int, columns: Sequence[str], values: Sequence[Any], error: BaseException | None
) -> BadRequest:
    if isinstance(error, Unreadable):
        return BadRequest(number, columns[0], values[0], error.expected, str(error))
    return BadRequest(number, columns[0], values[0], "text", "half a surrogate pair, which is no text")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
