"""Rows as dicts become what the model reads, without Arrow or Polars: what a request is answered with.

    <folder>/request.json               the inputs, in the order of their declaration
    <folder>/<place>.<name>.npy         arrays of the input in that place, which are mapped

`write.write_request` makes one of fitted features, and `Features.transform` gives the same numbers.
"""

from collections.abc import Mapping, Sequence
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
        dense: Numbers, float32 [n, k], in the order of `Features.numeric_columns`.
        bags: Encoded ids by feature.
        missing: Values that were missing, by feature; those with none are left out.
        unknown: Ids outside the vocabulary, by feature, likewise.
    """

    dense: np.ndarray
    bags: dict[str, Bags]
    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


class RequestTransform:
    """The transform of an exported folder. Raises DamagedFile or OtherVersion for a folder that is none."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        saved = read_manifest(folder / REQUEST, SavedRequest, versions, "export again")
        self._inputs = saved.inputs
        self._states: list[Any] = [
            one.state(_mapped(folder, place)) for place, one in enumerate(saved.inputs)
        ]
        owners = {one.name: place for place, one in enumerate(saved.inputs)}
        for place, one in enumerate(saved.inputs):
            if isinstance(one, CategoricalInput) and one.like is not None:
                self._states[place] = self._states[owners[one.like]]
        self._readers = [
            (name, reader, reader.columns) for one in saved.inputs for name, reader in one.readers.items()
        ]
        self.columns = sorted({column for _, _, columns in self._readers for column in columns})
        self._known = frozenset(self.columns)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Encoded:
        """Encode rows, dicts of source columns: a column that is absent or None is missing.

        Raises BadRequest for a column that no feature reads, and a value that its feature cannot.
        """
        read: dict[str, list[Any]] = {name: [] for name, *_ in self._readers}
        for number, row in enumerate(rows):
            self._require_known(number, row)
            for name, reader, columns in self._readers:
                values = [row.get(column) for column in columns]
                try:
                    read[name].append(reader.read(values))
                except (Unreadable, UnicodeEncodeError) as error:
                    raise _bad(number, columns, values, error) from None
        return self._encoded(read, len(rows))

    def _require_known(self, number: int, row: Mapping[str, Any]) -> None:
        if not self._known.issuperset(row):
            column = next(column for column in row if column not in self._known)
            known = ", ".join(self.columns)
            raise BadRequest(
                number, str(column), row[column], f"one of {known}", "no feature reads this column"
            )

    def _encoded(self, read: Mapping[str, Sequence[Any]], rows: int) -> Encoded:
        dense: list[np.ndarray] = []
        encoded = Encoded(np.empty((rows, 0), np.float32), {})
        for one, state in zip(self._inputs, self._states, strict=True):
            if isinstance(one, CategoricalInput | BucketsInput):
                bags = one.bags(read, state)
                encoded.bags[one.name] = bags
                missing, unknown = bags.missing, bags.unknown
            else:
                columns, missing, unknown = one.columns(read, state)
                dense += columns
            if missing:
                encoded.missing[one.name] = missing
            if unknown:
                encoded.unknown[one.name] = unknown
        if dense:
            return Encoded(np.stack(dense, axis=1), encoded.bags, encoded.missing, encoded.unknown)
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
