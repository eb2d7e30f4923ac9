"""A finished folder of prepared data, and its manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext.files import file_digest, text_digest
from recsys_cython_ext.manifest import DamagedFile, FileName, Manifest, OtherVersion, read_manifest
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features
from recsys_pipelines.shards import read_arrays

FORMAT_VERSION = 4
ROLES = ("source", "label", "weight", "user", "time", "truth")  # columns whose meaning is that of the rows
COUNTS = "counts.npz"  # beside the features: what they were fitted from


class ManifestError(ValueError):
    """A prepared folder is unfinished, damaged, or of another version."""


class Shard(Manifest):
    """One shard: its split, its rows, and the checksum of its file."""

    split: str
    rows: int
    positives: int
    xxh64: str


class SplitCounts(Manifest):
    """The rows of a split."""

    rows: int
    positives: int


class VocabularySize(Manifest):
    """The codes of a feature, None where it is hashed, and its bytes."""

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
        """Rows in + rows added = rows out + rows quarantined."""
        return {name: getattr(self, name) for name in ("rows_in", "rows_added", "rows_out", "quarantined")}

    @property
    def row_counts_by_split(self) -> dict[str, dict[str, int]]:
        """Rows and positive ones of each split, as plain values."""
        return {name: counts.model_dump() for name, counts in self.splits.items()}


@dataclass(frozen=True)
class Prepared:
    """A finished folder of prepared data."""

    path: Path
    manifest: PreparedManifest

    @classmethod
    def open(cls, path: str | Path) -> "Prepared":
        """Read and check a manifest. Raises ManifestError naming the folder and what to do."""
        path = Path(path)
        file = path / "manifest.json"
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        try:
            return cls(
                path, read_manifest(file, PreparedManifest, versions, f"delete {path} and prepare again")
            )
        except FileNotFoundError:
            raise ManifestError(
                f"{path}: no manifest.json, so this is not a finished prepared folder"
            ) from None
        except (DamagedFile, OtherVersion) as error:
            raise ManifestError(str(error)) from None

    @property
    def digest(self) -> str:
        """Of its shards and features, as the manifest tells them: another one is another set."""
        parts = self.manifest.model_dump(mode="json", include={"shards", "feature_files"})
        return text_digest(json.dumps(parts, sort_keys=True))

    def verify(self, split: str | None = None) -> None:
        """Compare features and shards, all or those of a split, with their checksums.

        Raises ManifestError naming the damaged file.
        """
        for name in self.manifest.feature_files:
            self._verify_file(name, self.manifest.feature_files[name])
        for name, shard in self.manifest.shards.items():
            if split in (None, shard.split):
                self._verify_file(name, shard.xxh64)

    def _verify_file(self, name: str, digest: str | None) -> None:
        file = self.path / name
        if not file.is_file() or file_digest(file) != digest:
            raise ManifestError(f"{file}: missing or damaged; delete {self.path} and prepare again")

    def require_same(self, data: DataConfig, features: Sequence[FeatureConfig]) -> None:
        """Raise ManifestError unless features and roles of columns are declared as they were for this set."""
        declared = [_set_keys(feature.model_dump(mode="json")) for feature in features]
        if [_set_keys(feature) for feature in self.manifest.features] != declared:
            raise ManifestError(
                f"{self.path}: its features are declared differently from these, and rows of both would not mean the "
                "same: take the configuration it was prepared with"
            )
        own, others = self.manifest.data, data.model_dump(mode="json")
        for role in ROLES:
            if own[role] != others[role]:
                raise ManifestError(
                    f"{self.path}: its data.{role} is {own[role]!r}, and here it is {others[role]!r}: take the "
                    "configuration it was prepared with"
                )

    def features(self) -> Features:
        """The fitted features."""
        return Features.load(self.path / "features")

    def counts(self) -> FeatureFitter:
        """What the features were fitted from. Raises ManifestError where the file is damaged."""
        name = f"features/{COUNTS}"
        self._verify_file(name, self.manifest.feature_files.get(name))
        features = self.features()
        fitter = FeatureFitter(features.configs, features.text)
        fitter.merge(read_arrays(self.path / "features" / COUNTS))
        return fitter


def _set_keys(declared: dict[str, Any]) -> dict[str, Any]:
    """Without keys that say nothing: an earlier version may not have known them."""
    return {key: value for key, value in declared.items() if value is not None}
