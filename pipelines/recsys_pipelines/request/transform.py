"""Rows as dicts become what the model reads, without Arrow or Polars: what a request is answered with.

    <folder>/request.json               the inputs, in the order of their declaration
    <folder>/<place>.<name>.npy         arrays of the input in that place, which are mapped

`write.write_request` makes one of fitted features, and `Features.transform` gives the same numbers.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.manifest import Manifest, read_manifest
from recsys_pipelines.request.inputs import Bags, BucketsInput, CategoricalInput, Input
from recsys_pipelines.request.values import Unreadable

FORMAT_VERSION = 1
REQUEST = "request.json"


class BadRequest(ValueError):
    """A row that cannot be read: which, its field, the value, and what is expected there."""

    def __init__(self, row: int, feature: str, value: Any, expected: str, reason: str) -> None:
        super().__init__(f"row {row}, {feature}: {reason} ({_short(value)}); expected {expected}")
        self.row, self.feature, self.value, self.expected, self.reason = row, feature, value, expected, reason


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
        numbers: Columns of numbers, float32 [n] each, by the feature that makes them, in the order of declaration.
        bags: Encoded ids by feature.
        missing: Values that were missing, by feature; those with none are left out.
        unknown: Ids outside the vocabulary, by feature, likewise.
    """

    rows: int
    numbers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    bags: dict[str, Bags] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def dense(self) -> np.ndarray:
        """Return the numbers, float32 [n, k], in the order of `Features.numeric_columns`."""
        columns = [column for columns in self.numbers.values() for column in columns]
        return np.stack(columns, axis=1) if columns else np.empty((self.rows, 0), np.float32)


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
        readers = [reader for one in saved.inputs for reader in one.readers.values()]
        self.columns = sorted({column for reader in readers for column in reader.columns})
        self._known = frozenset(self.columns)
        self.order = [one.name for one in saved.inputs]

    def encode(self, rows: Sequence[Mapping[str, Any]], only: Container[str] | None = None) -> Encoded:
        """Encode rows, dicts of source columns: a column that is absent or None is missing.

        only: names of the features that are encoded; all of them unless given. Raises BadRequest for a column that no
        feature reads, and a value that its feature cannot.
        """
        inputs = [(one, state) for one, state in self._inputs if only is None or one.name in only]
        readers = [pair for one, _ in inputs for pair in one.readers.items()]
        read: dict[str, list[Any]] = {name: [] for name, _ in readers}
        for number, row in enumerate(rows):
            self._require_known(number, row)
            for name, reader in readers:
                values = [row.get(column) for column in reader.columns]
                try:
                    read[name].append(reader.read(values))
                except (Unreadable, UnicodeEncodeError) as error:
                    raise _bad(number, reader.columns, values, error) from None
        return _encoded(inputs, read, len(rows))

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
        one = dict(zip(self.order, (one for one, _ in self._inputs), strict=True)).get(feature)
        if isinstance(one, CategoricalInput | BucketsInput) and len(one.reader.columns) == 1:
            (column,) = one.reader.columns
            bags = self.encode([{column: value} for value in values], {feature}).bags[feature]
            if bags.single:
                return bags.values.astype(np.int64)
        raise ValueError(f"{feature!r} is no feature of one id of one column")

    def _require_known(self, number: int, row: Mapping[str, Any]) -> None:
        if not self._known.issuperset(row):
            column = next(column for column in row if column not in self._known)
            known = ", ".join(self.columns)
            raise BadRequest(
                number, str(column), row[column], f"one of {known}", "no feature reads this column"
            )


def _encoded(inputs: Sequence[tuple[Input, Any]], read: Mapping[str, Sequence[Any]], rows: int) -> Encoded:
    encoded = Encoded(rows)
    for one, state in inputs:
        if isinstance(one, CategoricalInput | BucketsInput):
            bags = encoded.bags[one.name] = one.bags(read, state)
            missing, unknown = bags.missing, bags.unknown
        else:
            encoded.numbers[one.name], missing, unknown = one.columns(read, state)
        if missing:
            encoded.missing[one.name] = missing
        if unknown:
            encoded.unknown[one.name] = unknown
    return encoded


def _mapped(folder: Path, place: int) -> dict[str, np.ndarray]:
    files = folder.glob(f"{place}.*.npy")
    return {
        file.name.split(".")[1]: np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for file in files
    }


def _bad(number: int, columns: Sequence[str], values: Sequence[Any], error: Exception) -> BadRequest:
    if isinstance(error, Unreadable):
        return BadRequest(number, columns[0], values[0], error.expected, str(error))
    return BadRequest(number, columns[0], values[0], "text", "half a surrogate pair, which is no text")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
