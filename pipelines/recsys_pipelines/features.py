"""Fitted features: from typed columns (64-bit ids and numbers) to what a model reads.

Fitting sees the training part only. A fitted feature is small, saved beside the prepared data and
copied into every run, so that training and scoring share one transform.
"""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recsys_cython_ext import HASH_VERSION, MISSING_ID, IdCounter, IdTable
from recsys_cython_ext.hashing import mix64
from recsys_pipelines.config import CategoricalConfig, FeatureConfig, NumericConfig
from recsys_pipelines.ordered import ordered
from recsys_pipelines.shards import write_json

FLOAT32_MAX = float(np.finfo(np.float32).max)
MISSING_CODE, UNKNOWN_CODE, FIRST_CODE = 0, 1, 2  # codes of a vocabulary
SIGN_BIT = np.int64(-(2**63))


class Feature(Protocol):
    """A fitted feature named `name` that makes the columns `columns` of a prepared shard."""

    name: str

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types of what `transform` makes."""
        ...

    def transform(self, column: pa.ChunkedArray) -> dict[str, pa.Array]:
        """Make the columns from a typed column."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-able description."""
        ...


@dataclass
class Categorical:
    """Ids of a feature: kept (`hash`), or numbered by falling count in training (`vocabulary`).

    `ids` holds the vocabulary in code order: ids[0] has code FIRST_CODE. Missing has code 0; an id that
    is not in the vocabulary (rarer than min_count, or new) has code 1, or where `unknown` is "hash" the
    64-bit hash of itself with the sign bit set.
    """

    name: str
    encoding: str
    multivalued: bool
    pooling: str
    full_codes: int  # codes of a vocabulary that holds every id of training, whatever the minimum count
    ids: np.ndarray  # int64 [V]
    full_vocabulary_bytes: int
    unknown: str = "code"
    text: bool | None = None  # ids are hashes of text, or integers; None: training had only missing values

    def __post_init__(self) -> None:
        self._table = IdTable(self.ids)
        self.ids = self._table.keys  # the table has its own copy

    @property
    def num_codes(self) -> int | None:
        """Number of codes, None when ids are hashed."""
        return None if self.encoding == "hash" else FIRST_CODE + len(self.ids)

    @property
    def vocabulary_bytes(self) -> int:
        """Resident bytes of the id -> code table; none when ids are hashed."""
        return 0 if self.encoding == "hash" else self._table.nbytes

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """One int64 column, or a list of them."""
        return {self.name: pa.list_(pa.int64()) if self.multivalued else pa.int64()}

    def transform(self, column: pa.ChunkedArray) -> dict[str, pa.Array]:
        """64-bit ids (or lists of them) -> codes, or the ids themselves."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if not self.multivalued:
            return {self.name: pa.array(self._encode(array.to_numpy(zero_copy_only=False)))}
        values = pa.array(self._encode(array.flatten().to_numpy(zero_copy_only=False)))
        lengths = np.diff(array.offsets.to_numpy())
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return {self.name: pa.ListArray.from_arrays(pa.array(offsets), values)}

    def is_unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Which encoded ids are outside the vocabulary: bool, as `encoded`."""
        return encoded < 0 if self.unknown == "hash" else encoded == UNKNOWN_CODE

    def to_dict(self) -> dict[str, Any]:
        """Everything but the ids, which are saved as an array."""
        return {
            "kind": "categorical",
            "name": self.name,
            "encoding": self.encoding,
            "multivalued": self.multivalued,
            "pooling": self.pooling,
            "unknown": self.unknown,
            "full_codes": self.full_codes,
            "full_vocabulary_bytes": self.full_vocabulary_bytes,
            "text": self.text,
        }

    def _encode(self, ids: np.ndarray) -> np.ndarray:
        if self.encoding == "hash":
            return ids
        codes = self._table.codes(ids, UNKNOWN_CODE - FIRST_CODE).astype(np.int64) + FIRST_CODE
        if self.unknown == "hash":
            outside = codes == UNKNOWN_CODE
            codes[outside] = mix64(ids[outside]) | SIGN_BIT
        codes[ids == MISSING_ID] = MISSING_CODE
        return codes


@dataclass
class Numeric:
    """A number, transformed, standardised by training's moments; missing becomes the training mean."""

    name: str
    transform_name: str
    mean: float
    deviation: float
    fill: float
    indicator: bool  # a second column `<name>:missing`, where training has missing values

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """float32 columns."""
        names = [self.name, f"{self.name}:missing"] if self.indicator else [self.name]
        return dict.fromkeys(names, pa.float32())

    def transform(self, column: pa.ChunkedArray) -> dict[str, pa.Array]:
        """float64, null where missing -> float32 without nulls."""
        values = _transformed(column, self.transform_name)
        missing = np.isnan(values)
        filled = (np.where(missing, self.fill, values) - self.mean) / self.deviation
        out = {self.name: pa.array(np.clip(filled, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32))}
        if self.indicator:
            out[f"{self.name}:missing"] = pa.array(missing.astype(np.float32))
        return out

    def to_dict(self) -> dict[str, Any]:
        """All of its fields."""
        return {"kind": "numeric", **asdict(self)}


class FeatureFitter:
    """Collects what the features need from the training rows, part by part in order.

    `text_ids` says of each categorical feature whether its ids are hashes of text (`convert.text_ids`).
    """

    def __init__(self, configs: Sequence[FeatureConfig], text_ids: Mapping[str, bool] | None = None) -> None:
        self._text_ids = text_ids or {}
        self._configs = [(name, config) for config in configs for name in config.names]
        self._counters = {
            name: IdCounter() for name, config in self._configs if isinstance(config, CategoricalConfig)
        }
        self._moments = {
            name: _Moments() for name, config in self._configs if isinstance(config, NumericConfig)
        }

    def add(self, table: pa.Table) -> None:
        """Count one part of typed training rows; columns are counted at once, each on its own."""

        def count(named: tuple[str, FeatureConfig]) -> None:
            name, config = named
            column = table[name]
            if isinstance(config, CategoricalConfig):
                for chunk in column.chunks:
                    values = chunk.flatten() if config.multivalued else chunk
                    self._counters[name].add(values.to_numpy(zero_copy_only=False))
            else:
                self._moments[name].add(_transformed(column, config.transform))

        for _ in ordered(count, self._configs):
            pass

    def fit(self) -> "Features":
        """Return the fitted features, in the order of their declaration."""
        return Features(
            [
                self._categorical(name, config)
                if isinstance(config, CategoricalConfig)
                else self._numeric(name, config)
                for name, config in self._configs
            ]
        )

    def _categorical(self, name: str, config: CategoricalConfig) -> Categorical:
        ids, counts = self._counters[name].result()
        known = ids != MISSING_ID
        by_count = np.lexsort((ids[known], -counts[known]))
        kept = ids[known][by_count][: int((counts[known] >= config.min_count).sum())]
        return Categorical(
            name=name,
            encoding=config.encoding,
            multivalued=config.multivalued,
            pooling=config.pooling,
            unknown=config.unknown,
            full_codes=FIRST_CODE + int(known.sum()),
            ids=kept if config.encoding == "vocabulary" else np.empty(0, np.int64),
            full_vocabulary_bytes=IdTable(ids[known]).nbytes,
            text=self._text_ids.get(name),
        )

    def _numeric(self, name: str, config: NumericConfig) -> Numeric:
        moments = self._moments[name]
        scale = config.standardise
        return Numeric(
            name=name,
            transform_name=config.transform,
            mean=moments.mean if scale else 0.0,
            deviation=moments.deviation if scale else 1.0,
            fill=moments.mean,
            indicator=moments.missing > 0,
        )


@dataclass
class _Moments:
    """Mean and squared deviations of the present values, merged part by part (Chan et al. 1979):
    sums of squares lose every digit of a small spread around a large mean, as of epoch seconds.
    """

    missing: int = 0
    present: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the distances to the mean

    def add(self, values: np.ndarray) -> None:
        present = values[~np.isnan(values)]
        self.missing += len(values) - len(present)
        if len(present) == 0:
            return
        mean = float(present.mean())
        before, self.present = self.present, self.present + len(present)
        distance = mean - self.mean
        self.squares += (
            float(((present - mean) ** 2).sum()) + distance**2 * before * len(present) / self.present
        )
        self.mean += distance * len(present) / self.present

    @property
    def deviation(self) -> float:
        """1 for a constant, whose deviation is zero but for rounding."""
        deviation = (self.squares / max(self.present, 1)) ** 0.5
        return deviation if deviation > 1e-12 * abs(self.mean) else 1.0


class Features:
    """The fitted features of an experiment, in the order of their declaration."""

    def __init__(self, features: Iterable[Feature]) -> None:
        self.features = tuple(features)

    @property
    def categorical(self) -> tuple[Categorical, ...]:
        """The features that are looked up in tables."""
        return tuple(feature for feature in self.features if isinstance(feature, Categorical))

    def check_text(self, text_ids: Mapping[str, bool], file: str) -> None:
        """Raise ValueError when a file to score holds text where training had integers, or the reverse."""
        for feature in self.categorical:
            found = text_ids.get(feature.name)
            if found is not None and feature.text is not None and found != feature.text:
                had, has = ("text", "integers") if feature.text else ("integers", "text")
                raise ValueError(
                    f"{file}: feature {feature.name!r} holds {has}, but {had} in training; the two have different "
                    "ids, so bring the rows in the kind of file the model was trained on"
                )

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        """Names of the float32 columns, in order."""
        return tuple(
            column for feature in self.features if isinstance(feature, Numeric) for column in feature.columns
        )

    def transform(self, table: pa.Table) -> pa.Table:
        """Typed columns -> model columns; other columns of `table` (row_id, label, …) pass through."""
        names = {feature.name for feature in self.features}
        columns: dict[str, Any] = {name: table[name] for name in table.column_names if name not in names}
        for feature in self.features:
            columns.update(feature.transform(table[feature.name]))
        return pa.table(columns)

    def save(self, folder: Path) -> None:
        """Write vocabularies.npz, then features.json: where the second is, both are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "vocabularies.npz.tmp"
        with partial.open("wb") as file:
            np.savez(file, *[feature.ids for feature in self.categorical])
        partial.replace(folder / "vocabularies.npz")
        text = {"hash_version": HASH_VERSION, "features": [feature.to_dict() for feature in self.features]}
        write_json(text, folder / "features.json")

    @classmethod
    def load(cls, folder: Path) -> "Features":
        """Read what `save` wrote. Raises ValueError on damage or another hash version."""
        try:
            text = json.loads((folder / "features.json").read_text())
            with np.load(folder / "vocabularies.npz", allow_pickle=False) as arrays:
                vocabularies = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{folder}: the fitted features are missing or damaged ({error}); train again"
            ) from None
        if text["hash_version"] != HASH_VERSION:
            raise ValueError(
                f"{folder}: fitted with hash version {text['hash_version']}, this is version {HASH_VERSION}; "
                "its ids mean other rows here, so prepare and train again"
            )
        features: list[Feature] = []
        for entry in text["features"]:
            kind = entry.pop("kind")
            if kind == "categorical":
                features.append(Categorical(**entry, ids=vocabularies.pop(0)))
            else:
                features.append(Numeric(**entry))
        return cls(features)


def _transformed(column: pa.ChunkedArray, transform: str) -> np.ndarray:
    """float64 [n], NaN where missing."""
    values = column.to_numpy().astype(np.float64)
    return np.sign(values) * np.log1p(np.abs(values)) if transform == "log" else values
