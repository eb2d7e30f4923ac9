"""The manifest of a checkpoint says which files it has, and which part of which logical tensor lies where in them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext import manifest as manifests
from recsys_cython_ext.manifest import DamagedFile, FileName, Manifest, read_manifest

FORMAT_VERSION = 4
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model, scheme or hash version."""


class OtherVersion(CheckpointError):
    """A checkpoint may be whole, but another version of this program wrote it."""


class SavedPiece(Manifest):
    """Part of a logical tensor as `Piece` describes it; `rows` names the row numbers where only some were saved."""

    name: str
    key: str
    shape: list[int]
    dtype: str
    first_row: int
    first_column: int
    columns: int
    rows: str | None = None


class SavedFile(Manifest):
    """A safetensors file of one rank."""

    file: FileName
    bytes: int
    xxh64: str
    pieces: list[SavedPiece]


class CheckpointManifest(Manifest):
    """The manifest of a checkpoint; `shapes` are those of whole logical tensors."""

    format_version: int
    hash_version: int
    schemes: dict[str, dict[str, Any]]
    about: dict[str, Any]
    base: FileName | None
    shapes: dict[str, list[int]]
    files: list[SavedFile]


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Read a checkpoint's manifest. Raises CheckpointError where it is missing or damaged, OtherVersion for that."""
    versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
    try:
        return read_manifest(folder / MANIFEST, CheckpointManifest, versions, "train again")
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no such checkpoint (no {MANIFEST})") from None
    except manifests.OtherVersion as error:
        raise OtherVersion(str(error)) from None
    except DamagedFile as error:
        raise CheckpointError(str(error)) from None


def base_of(folder: Path) -> str | None:
    """Return the name of the full checkpoint that `folder` holds changes of. Raises as `read_checkpoint_manifest` does."""
    return read_checkpoint_manifest(folder).base


def whole_shape(pieces: Sequence[SavedPiece]) -> list[int]:
    """Return the shape of the logical tensor that pieces are parts of."""
    first = pieces[0]
    if first.name.startswith("dense/"):
        return first.shape
    rows = max(piece.first_row + piece.shape[0] for piece in pieces)
    if len(first.shape) == 1:
        return [rows]
    return [rows, max(piece.first_column + piece.columns for piece in pieces)]


def covers(pieces: Sequence[SavedPiece], shape: list[int] | None) -> bool:
    """Return whether pieces make up a tensor of this shape: bands of columns side by side, each of rows without a gap."""
    if whole_shape(pieces) != shape:
        return False
    if pieces[0].name.startswith("dense/"):
        return True
    bands: dict[tuple[int, int], list[SavedPiece]] = {}
    for piece in pieces:
        bands.setdefault((piece.first_column, piece.first_column + piece.columns), []).append(piece)
    edges = sorted(bands)
    if edges[0][0] != 0 or any(left[1] != right[0] for left, right in pairwise(edges)):
        return False
    for band in bands.values():
        end = 0
        for piece in sorted(band, key=lambda piece: piece.first_row):
            if piece.first_row != end:
                return False
            end += piece.shape[0]
        if end != shape[0]:
            return False
    return True
