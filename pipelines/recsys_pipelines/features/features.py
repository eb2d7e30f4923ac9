"""All features of an experiment: fitted on typed training rows, saved, and applied to rows of any kind.

Fitting sees the training part only. A fitted feature is small, saved beside the prepared data and
copied into every run, so that training and serving share one transform.
"""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, OtherVersion, read_manifest, write_manifest
from recsys_pipelines.config import FeatureConfig, SequenceConfig
from recsys_pipelines.encoding.vocabulary import restored as restored_vocabulary
from recsys_pipelines.features.base import Arrays, Feature
from recsys_pipelines.features.categorical import Categorical, CategoricalFit
from recsys_pipelines.features.convert import ColumnSpec, Spec, columns_of, text_ids, typed
from recsys_pipelines.features.declared import fits_of, sequences_of, serving_specs_of, specs_of
from recsys_pipelines.features.numeric import Buckets, Numeric
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.features.serving import applied, with_uuids
from recsys_pipelines.features.statistics import Statistic, StatisticFit
from recsys_pipelines.parallel import ordered
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.shards import read_arrays, write_arrays
from recsys_pipelines.sources.base import Chunk

KINDS: dict[str, type[Categorical | Buckets | Numeric | Statistic]] = {
    "categorical": Categorical,
    "buckets": Buckets,
    "numeric": Numeric,
    "statistic": Statistic,
}
NAMES = {kind: name for name, kind in KINDS.items()}
MOST_EXAMPLES = 3  # by the error of a request
CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
FORMAT_VERSION = 2
FEATURES, ARRAYS = "features.json", "arrays.npz"


class SavedFeatures(Manifest):
    """The content of features.json: declarations, and the fitted features but for their arrays."""

    format_version: int
    hash_version: int
    configs: list[dict[str, Any]]
    text: dict[str, TextIds]
    features: list[dict[str, Any]]
    arrays_xxh64: str
    unsigned: list[str] = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        saved: dict[str, Any] = handler(self)
        if not self.unsigned:  # which sets of earlier versions have not
            del saved["unsigned"]
        return saved


class FeatureFitter:
    """The state of all features while they are fitted on training rows, in any order and any number of parts.

    `text_ids` says of each source column of ids whether it holds text (`convert.text_ids`), and `unsigned` names those
    of unsigned integers (`convert.unsigned_columns`).
    """

    def __init__(
        self,
        configs: Sequence[FeatureConfig],
        text_ids: Mapping[str, TextIds] | None = None,
        unsigned: Iterable[str] = (),
    ) -> None:
        self._configs = tuple(configs)
        self._text_ids = dict(text_ids or {})
        self._unsigned = frozenset(unsigned)
        self._fits = fits_of(configs)

    def add(self, table: pa.Table) -> None:
        """Count one part of typed training rows; features are counted at once, each on its own."""
        for _ in ordered(lambda fit: fit.add(table), self._fits.values()):
            pass

    def arrays(self) -> Iterable[tuple[str, np.ndarray]]:
        """Yield all that was counted, one array after another, as `merge` and `shards.write_arrays` take it."""
        for place, fit in enumerate(self._fits.values()):
            for key, array in fit.arrays().items():
                yield f"{place}.{key}", array

    def arrays_of(self, feature: str) -> Arrays:
        """Return what was counted for one feature: `ids` and `counts` of a categorical one; see its `Fit`."""
        return self._fits[feature].arrays()

    def frequencies_of(self, feature: str) -> np.ndarray:
        """Return how often each id of a categorical feature was seen: `CategoricalFit.frequencies`."""
        fit = self._fits[feature]
        assert isinstance(fit, CategoricalFit)
        return fit.frequencies()

    def vocabulary_of(self, feature: str, min_count: int) -> np.ndarray:
        """Return the ids that the vocabulary of a categorical feature has at a minimum count, int64 [V], in code order."""
        fit = self._fits[feature]
        assert isinstance(fit, CategoricalFit)
        return fit.vocabulary(min_count)

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what another fitter of the same features counted."""
        for place, fit in enumerate(self._fits.values()):
            fit.merge(_of_place(arrays, place))

    def fit(self, base: "Features | None" = None) -> "Features":
        """Return the fitted features, in the order of their declaration.

        With `base`, features of an earlier fit of the same declarations, they are those of `base`, whose vocabularies grow
        by the ids that are now frequent enough.
        """
        if base is None:
            fitted = ordered(lambda fit: fit.fitted(self._text_ids), self._fits.values())
            features = dict(zip(self._fits, fitted, strict=True))
        else:
            features = {
                feature.name: feature.extended(fit)
                if isinstance(feature, Categorical)
                and feature.like is None
                and isinstance(fit, CategoricalFit)
                and not fit.is_fixed
                else feature
                for feature, fit in zip(base.features, self._fits.values(), strict=True)
            }
        for sequence in sequences_of(self._configs):
            if sequence.like is not None:
                features[sequence.name] = _like(sequence, features)
        text = self._text_ids | ({} if base is None else base.text)
        unsigned = self._unsigned if base is None else base.unsigned
        return Features(features.values(), self._configs, text, unsigned)


class Features:
    """The fitted features of an experiment, in the order of their declaration.

    Args:
        features: What was fitted.
        configs: As declared.
        text: Of each source column of ids, whether training had text there, and "uuid" where that was the text of UUIDs.
        unsigned: The source columns of ids that were unsigned integers of 64 bits.
    """

    def __init__(
        self,
        features: Iterable[Feature],
        configs: Sequence[FeatureConfig] = (),
        text: Mapping[str, TextIds] | None = None,
        unsigned: Iterable[str] = (),
    ) -> None:
        self.features = tuple(features)
        self.configs = tuple(configs)
        self.text = dict(text or {})
        self.unsigned = frozenset(unsigned)

    @property
    def categorical(self) -> tuple[Categorical | Buckets, ...]:
        """The features that are looked up in tables."""
        return tuple(feature for feature in self.features if isinstance(feature, Categorical | Buckets))

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The features that are numbers of ids."""
        return tuple(feature for feature in self.features if isinstance(feature, Statistic))

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        """Names of the float32 columns, in order."""
        numbers = (f for f in self.features if not isinstance(f, Categorical | Buckets))
        return tuple(column for feature in numbers for column in feature.columns)

    def published_ids(self, feature: str, ids: np.ndarray) -> np.ndarray:
        """Return ids int64 [n] of a feature as the log has them: unsigned integers are kept by their bits."""
        spec = specs_of(self.configs).get(feature)
        unsigned = isinstance(spec, ColumnSpec) and spec.makes_ids and spec.column in self.unsigned
        return ids.view(np.uint64) if unsigned else ids

    def check_text(self, text_ids: Mapping[str, TextIds], file: str) -> None:
        """Raise ValueError when rows to score hold text where training had integers, or the reverse."""
        logged = {
            column: name for spec in self.serving_specs().values() for column, name in spec.id_columns.items()
        }
        for column, is_text in text_ids.items():
            if bool(is_text) != bool(self.text.get(logged.get(column, column), is_text)):
                had, has = ("text", "integers") if is_text is False else ("integers", "text")
                raise ValueError(
                    f"{file}: column {column!r} holds {has}, but {had} in training; the two have different "
                    "ids, so bring the rows in the kind of file the model was trained on"
                )

    def out_of_fold(self, counts: str | os.PathLike[str]) -> "Features":
        """Return the features as the training rows that they were fitted on get them: no row sees its own label.

        counts: the file of what they were fitted from (`FeatureFitter.arrays`).
        """
        features: list[Feature] = list(self.features)
        for place, fit in enumerate(fits_of(self.configs).values()):
            if isinstance(fit, StatisticFit):
                fit.merge(_of_place(read_arrays(Path(counts), f"{place}."), place))
                features[place] = fit.out_of_fold()
        return Features(features, self.configs, self.text, self.unsigned)

    def encode(self, table: pa.Table) -> pa.Table:
        """Turn typed columns (`convert.typed`) into model columns; others of `table` (row_id, label, …) pass through."""
        names = {*specs_of(self.configs), *(feature.name for feature in self.features)}
        columns: dict[str, Any] = {name: table[name] for name in table.column_names if name not in names}
        for feature in self.features:
            columns.update(feature.encode(table))
        return pa.table(columns)

    def transform(self, rows: Any) -> Any:
        """Turn rows as they come into what the model reads, exactly as in training.

        Args:
            rows: A dict of values (one request), a list of such dicts, an Arrow table or record batch, or a Polars frame
                (a lazy one stays lazy, and streams). Columns are the source's; a missing value is None. A sequence feature
                reads the user's earlier events, oldest first, from a list in a column called like the feature.

        Returns:
            The same kind of table for a Polars frame, else an Arrow table.

        Raises:
            ValueError: Naming row, field and value for what cannot be read; nothing is quarantined here.
        """
        return applied(lambda table: self.encode(self.typed(table)), rows, columns_of(self.serving_specs()))

    def typed(self, table: pa.Table) -> pa.Table:
        """Turn the source columns of rows to be answered into typed ones, which `encode` takes.

        Raises ValueError as `transform` does.
        """
        specs = self.serving_specs()
        logged = {column: name for spec in specs.values() for column, name in spec.id_columns.items()}
        table = with_uuids(
            table, [column for column, name in logged.items() if self.text.get(name) == "uuid"]
        )
        chunk = Chunk(table.combine_chunks(), np.arange(table.num_rows), "request")
        bad = Quarantine()
        converted = typed(chunk, specs, bad)
        if bad.count:
            examples = "; ".join(
                f"row {e.row}, {e.field}: {e.reason} ({e.value!r})" for e in bad.examples[:MOST_EXAMPLES]
            )
            raise ValueError(f"{bad.count} of {table.num_rows} rows cannot be read: {examples}")
        self.check_text(text_ids(chunk, specs), "request")
        return converted.drop_columns("row_id")

    def serving_specs(self) -> dict[str, Spec]:
        """Return the typed columns of a request."""
        return serving_specs_of(self.configs)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write arrays.npz, then features.json: where the second is, both are whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(
            (
                (f"{place}.{key}", array)
                for place, feature in enumerate(self.features)
                for key, array in feature.arrays().items()
            ),
            folder / ARRAYS,
        )
        saved = SavedFeatures(
            format_version=FORMAT_VERSION,
            hash_version=HASH_VERSION,
            configs=CONFIGS.dump_python(self.configs, mode="json", exclude_unset=True),
            text=self.text,
            features=[{"kind": NAMES[type(f)], **f.to_dict()} for f in self.features],  # type: ignore[index]
            arrays_xxh64=file_digest(folder / ARRAYS),
            unsigned=sorted(self.unsigned),
        )
        write_manifest(saved, folder / FEATURES)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Features":
        """Read what `save` wrote. Raises ValueError on damage or another version."""
        folder = Path(folder)
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        try:
            saved = read_manifest(folder / FEATURES, SavedFeatures, versions, "prepare and train again")
            if file_digest(folder / ARRAYS) != saved.arrays_xxh64:
                raise DamagedFile(
                    f"{folder / ARRAYS}: damaged: its checksum is wrong; prepare and train again"
                )
            arrays = read_arrays(folder / ARRAYS)
            configs = CONFIGS.validate_python(saved.configs)
            return cls(_restored(saved.features, arrays), configs, saved.text, saved.unsigned)
        except (DamagedFile, OtherVersion):
            raise
        except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{folder}: the fitted features are missing or damaged ({error}); prepare and train again"
            ) from None


def _restored(entries: Sequence[Mapping[str, Any]], arrays: Arrays) -> list[Feature]:
    """Restore features from their descriptions and arrays, first those that have a vocabulary others read."""
    features: dict[int, Any] = {}
    owners: dict[str, Categorical] = {}
    for place, entry in enumerate(entries):
        if entry.get("like") is None:
            kind: Any = KINDS[entry["kind"]]
            settings = {key: value for key, value in entry.items() if key != "kind"}
            if kind is Categorical:
                form: dict[str, Any] = {
                    key: settings.pop(key) for key in ("form", "shape") if key in settings
                }
                vocabulary = restored_vocabulary(form, _of_place(arrays, place))
                owners[settings["name"]] = features[place] = Categorical(**settings, vocabulary=vocabulary)
            else:
                features[place] = kind(**settings, **_of_place(arrays, place))
    for place, entry in enumerate(entries):
        if entry.get("like") is not None:
            features[place] = owners[entry["like"]].twin(entry["name"], entry["pooling"])
    return [features[place] for place in range(len(entries))]


def _of_place(arrays: Mapping[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
    prefix = f"{place}."
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _like(sequence: SequenceConfig, features: Mapping[str, Feature]) -> Categorical:
    other = features.get(sequence.like or "")
    if not isinstance(other, Categorical):
        raise ValueError(
            f"feature {sequence.name!r}: like: {sequence.like!r} is no declared feature of ids; "
            "name a categorical feature"
        )
    return other.twin(sequence.name, sequence.pooling)
