"""Tables to serve from: a folder that is mapped into memory and looked up in by the Cython loop, without torch.

    <folder>/manifest.json          versions, fields and their schemes, bytes by kind, every file's size and checksum
    <folder>/tables/<n>.npy         rows of a physical table (`recsys_tables.serving.quantise`)
    <folder>/projections/<n>.npy    of a table that PCA made narrower
    <folder>/remaps/<n>.npy         bitmap of the kept codes of a compact field
    <folder>/codes/<n>/             codes that coded fields share (`recsys_tables.codes`)
    <folder>/combine/<n>.<name>.npy   a parameter of the n-th field's `combine`

and what its writer added (`recsys export`: the fitted features and the network). `write` makes one.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext import pooled as sum_rows
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import DamagedFile, FileName, Manifest, OtherVersion, read_manifest
from recsys_tables.bytes import ResidentBytes
from recsys_tables.codes import Codes
from recsys_tables.config import scheme_classes
from recsys_tables.field import Field
from recsys_tables.out_of_range import Policy, in_range
from recsys_tables.remap import Remap
from recsys_tables.scheme import Parameters, Scheme, ServableScheme
from recsys_tables.serving.quantise import Dtype, StoredTable

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


class ArtefactError(ValueError):
    """A folder is no artefact, damaged, of another version, or cannot be made."""


@dataclass(frozen=True, eq=False)
class Artefact:
    """An opened artefact; its arrays are mapped, read-only.

    fields: in the model's order. tables: by name. about: what its writer said of it. bytes: resident, by kind.
    """

    folder: Path
    dtype: Dtype
    fields: tuple[Field, ...]
    tables: Mapping[str, StoredTable]
    about: Mapping[str, Any]
    bytes: ResidentBytes
    parameters: Mapping[str, Parameters]  # of each feature's `combine`
    files: frozenset[str]  # that the manifest has checksums of, by their paths below the folder

    def file(self, name: str) -> Path:
        """Return the path of a file that its writer added. Raises ArtefactError where the manifest lists none."""
        if name not in self.files:
            raise ArtefactError(
                f"{self.folder / name}: not listed in {MANIFEST}, so this was not exported from a run; export again"
            )
        return self.folder / name

    def field(self, feature: str) -> Field:
        """Return the field of a feature. Raises ArtefactError for one there is not."""
        for field in self.fields:
            if field.feature == feature:
                return field
        known = ", ".join(field.feature for field in self.fields)
        raise ArtefactError(f"{self.folder}: has no feature {feature!r}, only {known}")

    def vectors(self, feature: str, ids: np.ndarray) -> np.ndarray:
        """Return vectors, float32 [L, D], of int64 ids [L], one by one.

        A pruned code is its scheme's zero vector or default row. An id outside the scheme's space is treated as the
        field's `out_of_range` says: ValueError naming feature, position and value, unless declared otherwise.
        """
        field = self.field(feature)
        scheme: ServableScheme = field.scheme  # type: ignore[assignment]
        check = functools.partial(in_range, scheme, policy=field.out_of_range, oov_id=field.oov_id)
        return scheme.serve(self.tables, ids, check, self.parameters[feature])

    def pooled(
        self, feature: str, ids: np.ndarray, offsets: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Return vectors of bags of ids, float32 [B, D]: the weighted sum, or mean where the field says so.

        An empty bag is zeros. Raises ValueError as `vectors` and `recsys_cython_ext.pooled` do.

        Args:
            feature: of the bags.
            ids: int64 [L].
            offsets: int64 [B + 1], from 0 to L.
            weights: float32 [L], 1 unless given.
        """
        vectors = self.vectors(feature, ids)
        sums = sum_rows(vectors, np.arange(len(ids)), offsets, weights)
        if not self.field(feature).averages:
            return sums
        bag_of_id = np.repeat(np.arange(len(sums)), np.diff(offsets))
        total = np.bincount(bag_of_id, weights, len(sums)).astype(np.float32)
        return sums / np.where(total == 0, np.inf, total)[:, None].astype(np.float32)


def open(folder: str | Path, verify: bool = True) -> Artefact:
    """Map an artefact. With `verify` every file is read once, and its checksum compared; sizes always are.

    Raises ArtefactError, naming the file, where one is missing or damaged, and for another version's folder.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, file in manifest.files.items():
        _check_file(folder / name, file, verify)
    try:
        schemes = _schemes(folder, manifest.fields)
        fields = tuple(
            Field(schemes[entry.feature], **{name: getattr(entry, name) for name in FIELD_OPTIONS})
            for entry in manifest.fields
        )
        tables = {entry.name: _table(folder, entry, manifest.dtype) for entry in manifest.tables}
        parameters = {
            entry.feature: {name: _mapped(folder / file) for name, file in entry.parameters.items()}
            for entry in manifest.fields
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ArtefactError(f"{folder}: damaged ({error}); export again") from None
    by_kind = {name: value for name, value in manifest.bytes.items() if name not in ("total", "serving")}
    return Artefact(
        folder,
        manifest.dtype,
        fields,
        tables,
        manifest.about,
        ResidentBytes(**by_kind),
        parameters,
        frozenset(manifest.files),
    )


FIELD_OPTIONS = ("pooling", "multivalued", "weighted", "out_of_range", "oov_id")  # of `Field`


class StoredFile(Manifest):
    """The size and the checksum of a file of an artefact."""

    bytes: int
    xxh64: str


class StoredTableEntry(Manifest):
    """The files that the rows of a physical table lie in."""

    name: str
    file: FileName
    width: int
    projection: FileName | None


class StoredRemap(Manifest):
    """The file that the bitmap of a compact field lies in."""

    file: FileName
    num_ids: int


class StoredField(Manifest):
    """A field of the engine, and the description of its scheme."""

    feature: str
    scheme: dict[str, Any]
    pooling: Literal["sum", "mean", "none"]
    multivalued: bool
    weighted: bool
    out_of_range: Policy
    oov_id: int | None
    remap: StoredRemap | None = None
    codes: FileName | None = None  # the folder of its codes, which other fields may share
    parameters: dict[str, FileName] = pydantic.Field(default_factory=dict)  # of its `combine`


class ArtefactManifest(Manifest):
    """What an artefact says of itself."""

    format_version: int
    hash_version: int
    dtype: Dtype
    about: dict[str, Any]
    bytes: dict[str, int]
    fields: list[StoredField]
    tables: list[StoredTableEntry]
    files: dict[FileName, StoredFile]


def _manifest(folder: Path) -> ArtefactManifest:
    versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
    try:
        return read_manifest(folder / MANIFEST, ArtefactManifest, versions, "export again")
    except FileNotFoundError:
        raise ArtefactError(f"{folder}: no artefact (no {MANIFEST})") from None
    except (DamagedFile, OtherVersion) as error:
        raise ArtefactError(str(error)) from None


def _check_file(file: Path, entry: StoredFile, verify: bool) -> None:
    try:
        whole = file.stat().st_size == entry.bytes and not (verify and file_digest(file) != entry.xxh64)
    except OSError as error:
        raise ArtefactError(f"{file}: missing or unreadable ({error.strerror}); export again") from None
    if not whole:
        raise ArtefactError(f"{file}: damaged (its size or checksum is wrong); export again")


def _schemes(folder: Path, entries: Sequence[StoredField]) -> dict[str, Scheme]:
    """Return the schemes by feature; those that read another's tables are made after it."""
    classes = scheme_classes()
    schemes: dict[str, Scheme] = {}
    codes = {
        name: Codes.open(folder / name) for name in {entry.codes for entry in entries} if name is not None
    }
    for entry in sorted(entries, key=lambda entry: "of" in entry.scheme):
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in entry.scheme.items()
            if name != "scheme"
        }
        if "of" in settings:
            settings["of"] = schemes[str(settings["of"])]
        if entry.remap is not None:
            settings["remap"] = Remap(_mapped(folder / entry.remap.file), entry.remap.num_ids)
        if entry.codes is not None:
            settings["codes"] = codes[entry.codes]
        kind = entry.scheme["scheme"]
        if kind not in classes:
            raise ValueError(f"{kind!r} is no scheme")
        schemes[entry.feature] = classes[kind](**settings)
    return schemes


def _table(folder: Path, entry: StoredTableEntry, dtype: Dtype) -> StoredTable:
    projection = None if entry.projection is None else _mapped(folder / entry.projection)
    return StoredTable(_mapped(folder / entry.file), dtype, entry.width, projection)


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
