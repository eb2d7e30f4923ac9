"""A finished folder of prepared data, and its manifest."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext.files import file_digest, text_digest
from recsys_cython_ext.manifest import DamagedFile, FileName, Manifest, OtherVersion, read_manifest
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features
from recsys_pipelines.shards import PUBLISHED_USER, read_arrays, read_shard, without_published_users

FORMAT_VERSION = 4
ROLES = ("source", "label", "weight", "user", "time", "truth")  # columns whose meaning is that of the rows
FEATURES = "features"  # the folder of the fitted features
COUNTS = "counts.npz"  # in that folder: what the features were fitted from


class ManifestError(ValueError):
    """A prepared folder is unfinished, damaged, or of another version."""


class Shard(Manifest):
    """One shard of a prepared folder: its split, its rows, and the checksum of its file."""

    split: str
    rows: int
    positives: int
    xxh64: str


class SplitCounts(Manifest):
    """The numbers of all rows and of positive rows of a split."""

    rows: int
    positives: int


class VocabularySize(Manifest):
    """The codes of a feature, which are None where it is hashed, and the bytes of its vocabulary."""

    num_codes: int | None
    full_codes: int | None
    vocabulary_bytes: int


class PreparedManifest(Manifest):
    """What a prepared folder says of itself; `features` and `data` are declarations as they were."""

    format_version: int
    hash_version: int
    features: list[dict[str, Any]]
    appended_to: str | None
    columns: dict[str, str]
    vocabularies: dict[str, VocabularySize]
    rows_in: int
    rows_added: int
    rows_out: int
    quarantined: int
    next_row: int
    splits: dict[str, SplitCounts]
    shards: dict[FileName, Shard]
    feature_files: dict[FileName, str]
    doubts: list[str] = Field(default_factory=list)  # what is likely not meant, one sentence each
    data: dict[str, Any]
    files: list[list[Any]]

    @property
    def row_counts(self) -> dict[str, int]:
        """Return the counts by name: rows in + rows added = rows out + rows quarantined."""
        return {name: getattr(self, name) for name in ("rows_in", "rows_added", "rows_out", "quarantined")}

    @property
    def row_counts_by_split(self) -> dict[str, dict[str, int]]:
        """Return the numbers of rows and of positive rows of each split, as plain values."""
        return {name: counts.model_dump() for name, counts in self.splits.items()}


@dataclass(frozen=True)
class Prepared:
    """A finished folder of prepared data. It is opened once, and its features are loaded once."""

    path: Path
    manifest: PreparedManifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Prepared":
        """Read and check a manifest. Raises ManifestError naming the folder and what to do."""
        path = Path(path)
        file = path / "manifest.json"
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        try:
            manifest = read_manifest(file, PreparedManifest, versions, f"delete {path} and prepare again")
        except FileNotFoundError:
            raise ManifestError(
                f"{path}: no manifest.json, so this is not a finished prepared folder"
            ) from None
        except (DamagedFile, OtherVersion) as error:
            raise ManifestError(str(error)) from None
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """Return a digest of the checksums of all shards and features: another digest is another set."""
        checksums = self.manifest.model_dump(mode="json", include={"shards", "feature_files"})
        return text_digest(json.dumps(checksums, sort_keys=True))

    def verify(self, split: str | None = None) -> None:
        """Compare features and shards, all or those of a split, with their checksums.

        Raises ManifestError naming the damaged file.
        """
        for name, digest in self.manifest.feature_files.items():
            self._verify_file(name, digest)
        for name, shard in self.manifest.shards.items():
            if split in (None, shard.split):
                self._verify_file(name, shard.xxh64)

    def _verify_file(self, name: str, digest: str | None) -> None:
        file = self.path / name
        if not file.is_file() or file_digest(file) != digest:
            raise ManifestError(f"{file}: missing or damaged; delete {self.path} and prepare again")

    def require_same(self, data: DataConfig, features: Sequence[FeatureConfig]) -> None:
        """Raise ManifestError unless features and roles of columns are declared as they were for this set."""
        declared = [_without_unset(feature.model_dump(mode="json")) for feature in features]
        if [_without_unset(feature) for feature in self.manifest.features] != declared:
            raise ManifestError(
                f"{self.path}: its features are declared differently from these, and rows of both would not mean the "
                "same: take the configuration it was prepared with"
            )
        prepared_data, other_data = self.manifest.data, data.model_dump(mode="json")
        for role in ROLES:
            if prepared_data[role] != other_data[role]:
                raise ManifestError(
                    f"{self.path}: its data.{role} is {prepared_data[role]!r}, and here it is {other_data[role]!r}: take "
                    "the configuration it was prepared with"
                )

    def table(self, split: str, *, verify: bool = True) -> pa.Table:
        """Map all shards of a split into memory, in the order of their names.

        With `verify` each file is read once, and its checksum compared: leave it out only where that was just done.
        The rows as batches are `recsys_pipelines.batches.loader.Rows.load`, for this package's preparation knows no torch.
        Raises ManifestError as `verify` does.
        """
        if verify:
            self.verify(split)
        names = sorted(name for name, shard in self.manifest.shards.items() if shard.split == split)
        shards = [read_shard(self.path / name) for name in names]
        if not all(PUBLISHED_USER in shard.column_names for shard in shards):  # appended to an older set
            shards = [without_published_users(shard) for shard in shards]
        return pa.concat_tables(shards)

    def features(self) -> Features:
        """Return the fitted features, which are loaded at the first call."""
        return self._features

    @cached_property
    def _features(self) -> Features:
        return Features.load(self.path / FEATURES)

    def counts(self) -> FeatureFitter:
        """Return what the features were fitted from. Raises ManifestError where the file is damaged."""
        name = f"{FEATURES}/{COUNTS}"
        self._verify_file(name, self.manifest.feature_files.get(name))
        features = self.features()
        fitter = FeatureFitter(features.configs, features.text)
        fitter.merge(read_arrays(self.path / name))
        return fitter


def _without_unset(declared: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys that say nothing, for an earlier version may not have known them."""
    return {key: value for key, value in declared.items() if value is not None}
