"""Folders whose files are one log: the keys that subfolders are named by, and columns that must agree.

A subfolder called `dt=2024-01-01` says that its rows have this text in the column `dt`, as Hive, Spark and Polars
write them.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.types as pt
from typing_extensions import override

from recsys_cython_ext.column_ids import UUID_BYTES, is_uuid
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, SourceError, plain_name
from recsys_pipelines.sources.derived import Change, Over
from recsys_pipelines.sources.location import Url
from recsys_pipelines.sources.text import is_list, is_text

MISSING = "__HIVE_DEFAULT_PARTITION__"  # what Hive calls the subfolder of rows without a value


class Keyed(Over):
    """A file with a column of text for each of `keys`, which holds one value in all its rows."""

    def __init__(self, file: File, keys: dict[str, str | None]) -> None:
        super().__init__(file)
        self._keys = keys
        stored = [field for field in file.schema if field.name not in keys]
        self.schema = pa.schema([*stored, *((key, pa.string()) for key in keys)])
        both = [key for key in keys if key in file.schema.names or key in file.repeated]
        self.repeated = {
            **file.repeated,
            **{
                key: f"{key!r} is a column of the file and a key of its folders ({key}={keys[key]}), which may "
                "differ: write the files without it, or rename the folders"
                for key in both
            },
        }

    @override
    def change(self, columns: list[str]) -> tuple[list[str], Change]:
        keys = {name: pa.scalar(self._keys[name], pa.string()) for name in columns if name in self._keys}

        def keyed(chunk: Chunk, quarantine: Quarantine) -> Chunk:
            made = {name: pa.repeat(value, len(chunk.rows)) for name, value in keys.items()}
            table = {name: made[name] if name in made else chunk.table[name] for name in columns}
            return chunk.with_table(pa.table(table)) if columns else chunk

        return [name for name in columns if name not in keys], keyed


def with_keys(folder: Path | Url, files: Sequence[File]) -> list[File]:
    """Return files of `folder` with the keys of their subfolders as columns.

    Raises SourceError unless all have the same keys.
    """
    keys_of = [_keys(folder, file.path) for file in files]
    for file, keys in zip(files, keys_of, strict=True):
        if keys.keys() != keys_of[0].keys():
            raise SourceError(
                f"{file.path}: its folders have {_named(keys)}, and those of {files[0].path} have "
                f"{_named(keys_of[0])}: the files of one log lie below the same keys, so move one of them, or name a "
                "folder whose files agree"
            )
    return [Keyed(file, keys) if keys else file for file, keys in zip(files, keys_of, strict=True)]


def same_types(name: str, files: Sequence[File]) -> None:
    """Raise SourceError when column `name` has one type (unit, zone) in one of `files` and another in the next."""
    first: File | None = None
    for file in files:
        kind = _comparable(file.schema.field(name).type)
        if pt.is_null(kind):
            continue
        if first is None:
            first = file
            continue
        known = first.schema.field(name).type
        if not _agree(_comparable(known), kind):
            ids = ", and text and numbers have different ids" if is_text(known) != is_text(kind) else ""
            raise SourceError(
                f"{file.path}: column {name!r} is {file.schema.field(name).type}, but {known} in {first.path}"
                f"{ids}: convert one of the files"
            )


def _keys(folder: Path | Url, file: Path | Url) -> dict[str, str | None]:
    if isinstance(file, Url):
        folders = str(file).removeprefix(str(folder).rstrip("/")).strip("/").split("/")[:-1]
    else:
        folders = list(file.relative_to(str(folder)).parts[:-1])
    keys: dict[str, str | None] = {}
    for name in folders:
        key, equals, value = name.partition("=")
        if not (key and equals):
            continue
        try:
            key, value = plain_name(unquote(key, errors="strict")), unquote(value, errors="strict")
            (key + value).encode()
        except UnicodeError:
            raise SourceError(f"{file}: the folder {name!r} is not UTF-8 text: rename it") from None
        if key in keys:
            raise SourceError(f"{file}: two of its folders have the key {key!r}: rename one of them")
        keys[key] = None if value == MISSING else value
    return keys


def _named(keys: dict[str, str | None]) -> str:
    return " and ".join(f"the key {key!r}" for key in keys) or "no key"


def _comparable(kind: pa.DataType) -> pa.DataType:
    """Return a type as values are read from it: text is text, in whatever way it is stored."""
    if pt.is_null(kind):
        return kind
    if is_uuid(kind):
        return pa.binary(UUID_BYTES)
    if isinstance(kind, pa.BaseExtensionType):
        return _comparable(kind.storage_type)
    if pt.is_dictionary(kind):
        return _comparable(kind.value_type)
    if is_list(kind):
        return pa.list_(_comparable(kind.value_type))
    return pa.string() if is_text(kind) and not pt.is_nested(kind) else kind


def _agree(a: pa.DataType, b: pa.DataType) -> bool:
    if pt.is_list(a) and pt.is_list(b):
        return _agree(a.value_type, b.value_type)
    return bool(a == b or pt.is_null(a) or pt.is_null(b))
