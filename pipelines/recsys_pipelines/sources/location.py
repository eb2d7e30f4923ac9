"""Where data lie: a path, or a URL of one of `PROTOCOLS`, which fsspec opens.

A URL's file system comes from fsspec, and most of them from a package of their own (s3fs, gcsfs, aiohttp),
which also finds the credentials; what is missing is named when the URL is first used. Other protocols of fsspec
open one URL through another, run templates or unpack archives; none of them is ever reached (`Url`).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any

from pydantic import PlainSerializer, PlainValidator

PROTOCOLS = ("file", "http", "https", "s3", "gs", "az", "abfs", "hdfs", "memory")
DEEPEST = 32  # folders below each other
OURS = ("features/features.json", ".lock")  # what folders of this program have: prepared sets and runs


@dataclass(frozen=True, order=True)
class Url:
    """The part of `pathlib.Path` that readers use, for a URL. All that goes wrong is an OSError.

    Raises ValueError for a chained URL ("::") and for any protocol but `PROTOCOLS`: every URL that fsspec is handed
    is one of these, whether a configuration, a command, a manifest or a folder's listing named it.
    """

    url: str

    def __post_init__(self) -> None:
        protocol, separator, _ = self.url.partition("://")
        if "::" in self.url:
            raise ValueError(f"{self.url}: chained URLs (with ::) are not opened: name the file itself")
        if not separator or protocol not in PROTOCOLS:
            raise ValueError(
                f"{self.url}: the protocol {protocol!r} is not opened: take {', '.join(PROTOCOLS)}, or a path"
            )

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last piece, without a query ("?…")."""
        return self.url.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "Url":
        """The folder this is in; a URL of nothing but a host or a bucket is its own."""
        folder = self.url.rstrip("/").rpartition("/")[0]
        return Url(folder) if "://" in folder else self

    def with_suffix(self, suffix: str) -> "Url":
        """Return the URL with another ending."""
        return self.parent / PurePosixPath(self.name).with_suffix(suffix).name

    def resolve(self) -> "Url":
        """Return the URL itself: it is absolute."""
        return self

    def exists(self) -> bool:
        """Tell whether it is a file or a folder."""
        try:
            return bool(self.info())
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Tell whether it is a folder; a page on the web never is."""
        return self._type() == "directory"

    def is_file(self) -> bool:
        """Tell whether it is a file."""
        return self._type() == "file"

    def iterdir(self) -> Iterator["Url"]:
        """Yield what the folder holds."""
        with self._file_system() as (files, key):
            entries = files.ls(key, detail=False)
        return (self / entry.rstrip("/").rpartition("/")[2] for entry in entries)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open a stream of bytes, read as they are asked for."""
        with self._file_system() as (files, key):
            return files.open(key, mode)

    def read_bytes(self) -> bytes:
        """Return all that it holds."""
        with self.open() as file:
            return file.read()

    def info(self) -> dict[str, Any]:
        """Return what the store says of it: `type`, `size` (None if unknown), and often a time or an ETag."""
        with self._file_system() as (files, key):
            return files.info(key)

    def _type(self) -> str | None:
        try:
            return str(self.info()["type"])
        except FileNotFoundError:
            return None

    @contextmanager
    def _file_system(self) -> Iterator[tuple[Any, str]]:
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.url)
        except OSError:
            raise
        except Exception as error:  # file systems are plug-ins, and each has exceptions of its own
            raise OSError(f"{type(error).__name__}: {error}") from error


Place = str | os.PathLike[str] | Url  # what a user may name


def located(place: Place) -> Path | Url:
    """Return `place` as a URL where it holds "://", as a path otherwise. Raises ValueError as `Url` does."""
    if isinstance(place, Url):
        return place
    if not isinstance(place, str | os.PathLike):
        raise ValueError("must be a path or a URL")
    return Url(os.fspath(place)) if "://" in os.fspath(place) else Path(place)


def entries(folder: Path | Url) -> list[Path | Url]:
    """Return what the folder holds, in the order of the names."""
    places: list[Path | Url] = [*folder.iterdir()]
    return sorted(places, key=str)


def is_hidden(place: Path | Url) -> bool:
    """Tell whether a name is no log's: markers, notes and drafts that programs leave in folders have such."""
    return place.name.startswith((".", "_"))


def files_below(folder: Path | Url, deep: int = 0) -> Iterator[Path | Url]:
    """Yield the files of a folder and of its subfolders, in the order of the names.

    Hidden folders are left out, and so are prepared sets and runs, which may lie in the folder they were made from.

    Raises ValueError where folders lie deeper than `DEEPEST`, as those of a link that leads back up do.
    """
    if deep > DEEPEST:
        raise ValueError(
            f"{folder}: lies more than {DEEPEST} folders deep: is there a link that leads back up? Remove it"
        )
    for entry in entries(folder):
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not is_hidden(entry) and not _is_ours(entry):
            yield from files_below(entry, deep + 1)


def _is_ours(folder: Path | Url) -> bool:
    return isinstance(folder, Path) and any((folder / name).exists() for name in OURS)


def file_prints(
    place: Path | Url, beside: Iterable[str] = (), *, subfolders: bool = False
) -> list[tuple[Any, ...]]:
    """Return what tells whether files have changed: name, size and time, or what a store says.

    Args:
        place: A file, or a folder that stands for its files.
        beside: Names of files beside a file that count too.
        subfolders: Whether the files of subfolders count too.
    """
    if place.is_dir():
        files = files_below(place) if subfolders else (entry for entry in entries(place) if entry.is_file())
    else:
        files = iter([place, *(place.parent / name for name in beside)])
    return [(str(file), *_print(file)) for file in files if file.exists()]


def _print(file: Path | Url) -> tuple[Any, ...]:
    if isinstance(file, Url):
        return (repr(sorted(file.info().items())),)
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


Location = Annotated[Path | Url, PlainValidator(located), PlainSerializer(str, when_used="json")]
