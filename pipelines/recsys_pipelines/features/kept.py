"""Ids that `keep` lets a vocabulary hold: a folder of NumPy arrays, int64 [n], one for each feature.

<folder>/<n>.npy         numbered, for a name comes from data and is no path
<folder>/manifest.json   of each feature its file and checksum

`write_kept_ids` makes one. A folder made by hand has files `<feature>.npy` and no manifest.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np

from recsys_cython_ext.files import digest, file_digest
from recsys_cython_ext.manifest import (
    DamagedFile,
    FileName,
    Manifest,
    OtherVersion,
    read_manifest,
    write_manifest,
)
from recsys_pipelines.sources.base import SourceError
from recsys_pipelines.sources.location import Place, Url, located

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# what NumPy raises on a header that is none
NO_ARRAY = (ValueError, OverflowError, MemoryError, SyntaxError, TokenError)
NO_NAME = ("", ".", "..")


class KeptFile(Manifest):
    """A file of ids, and its checksum."""

    file: FileName
    xxh64: str


class KeptIds(Manifest):
    """The files of a folder, by feature."""

    format_version: int
    features: dict[str, KeptFile]


def write_kept_ids(ids: Mapping[str, np.ndarray], folder: str | os.PathLike[str]) -> None:
    """Write the ids int64 [n] of each feature into `folder`, which is made where it is missing."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    files = {}
    for number, (feature, values) in enumerate(ids.items()):
        file = folder / f"{number}.npy"
        np.save(file, values)
        files[feature] = KeptFile(file=file.name, xxh64=file_digest(file))
    write_manifest(KeptIds(format_version=FORMAT_VERSION, features=files), folder / MANIFEST)


def kept_ids(folder: Place, feature: str) -> np.ndarray:
    """Read the ids of a feature that `keep: folder` lists, int64 [n]. Raises SourceError naming file and feature."""
    needed = f"`keep` of feature {feature!r} takes 64-bit ids, int64 [n], as numpy.save writes them"
    path = located(folder)
    try:
        path, xxh64 = _file(path, feature)
        content = path.read_bytes()
        if xxh64 is not None and digest(content) != xxh64:
            raise DamagedFile(f"{path}: damaged: its checksum is wrong")
        ids = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); {needed}") from None
    except (DamagedFile, OtherVersion) as error:
        raise SourceError(f"{error}; {needed}") from None
    except NO_ARRAY as error:
        raise SourceError(f"{path}: no file of a NumPy array ({error}); {needed}") from None
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise SourceError(f"{path}: holds {ids.dtype} {list(ids.shape)}; {needed}")
    return ids


def _file(folder: Path | Url, feature: str) -> tuple[Path | Url, str | None]:
    """Return the file of a feature, and its checksum where the folder has a manifest."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        if feature in NO_NAME or any(sign in feature for sign in "/\\\0"):
            raise DamagedFile(f"{folder}: has no {MANIFEST}, and {feature!r} is no name of a file")
        return folder / f"{feature}.npy", None
    listed = read_manifest(manifest, KeptIds, {"format_version": FORMAT_VERSION}, "write the ids again")
    entry = listed.features.get(feature)
    if entry is None:
        raise DamagedFile(f"{manifest}: names no ids of this feature")
    return folder / entry.file, entry.xxh64
