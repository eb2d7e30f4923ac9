"""The version that a worker answers with: a folder's, which may be replaced while requests run.

What is opened stays mapped, so that a folder may be renamed or removed; its files must not be written to.
"""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recsys.serving.predictor import Predictor
from recsys_cython_ext.files import file_digest
from recsys_tables.serving.artefact import MANIFEST, ArtefactError

CURRENT = "current"  # file in a folder of versions with the name of the one that is served
Identity = tuple[object, ...]


@dataclass(frozen=True)
class Served:
    """An opened version: the digest of its manifest, which has the checksums of all files; its name; since when."""

    predictor: Predictor
    version: str
    name: str
    since: str


@dataclass(frozen=True)
class Refused:
    """A version that could not be opened, why, and when that was seen."""

    name: str
    error: str
    at: str


class Source(Protocol):
    """Where versions come from."""

    @property
    def path(self) -> Path:
        """Return the path that was asked for."""
        ...

    def chosen(self) -> Path:
        """Return the folder to serve. Raises ArtefactError where there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of the versions that can be chosen."""
        ...


@dataclass(frozen=True)
class OneFolder:
    """A folder, or a link to one: whatever stands under this path."""

    path: Path

    def chosen(self) -> Path:
        """Return the folder that the path leads to."""
        return self.path.resolve()

    def names(self) -> list[str]:
        """Return its name."""
        return [self.path.name]


@dataclass(frozen=True)
class FolderOfVersions:
    """A folder of exported folders: the one that the file `current` names, and without it the one written last."""

    path: Path

    def chosen(self) -> Path:
        """Return the version to serve."""
        names = self.names()
        if not names:
            raise ArtefactError(f"{self.path.resolve().name}: holds no exported folder; export a run into it")
        try:
            name = (self.path / CURRENT).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return self.path / max(
                names, key=lambda name: ((self.path / name / MANIFEST).stat().st_mtime_ns, name)
            )
        except (OSError, UnicodeDecodeError):
            raise ArtefactError(f"{CURRENT}: is no file with the name of a version") from None
        if name not in names:
            raise ArtefactError(f"{CURRENT}: names {name[:100]!r}, which is none of {', '.join(names)}")
        return self.path / name

    def names(self) -> list[str]:
        """Return the names of the exported folders, without those that are being written."""
        manifests = self.path.glob(f"*/{MANIFEST}")
        return sorted(file.parent.name for file in manifests if not file.parent.name.startswith("."))


class Versions:
    """The version that is served, and the one that was refused since; `refresh` looks for another."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.served: Served | None = None
        self.refused: Refused | None = None
        self._served_identity: Identity | None = None
        self._refused_identity: Identity | None = None

    def refresh(self) -> bool:
        """Open what the source names where it is another than is served; tell whether something has changed.

        A version that cannot be opened becomes `refused`, and the one before goes on being served. It is tried again when
        one of its files has changed.
        """
        before = self.served, self.refused
        try:
            folder = self.source.chosen()
        except (ArtefactError, OSError) as error:
            self._refuse(self.source.path.name, str(error))
        else:
            self._look_at(folder)
        return before != (self.served, self.refused)

    def _look_at(self, folder: Path) -> None:
        identity = None
        try:
            with _pinned(folder) as place:
                identity = _identity(place)
                if identity == self._refused_identity:
                    return
                if identity != self._served_identity:
                    predictor, version = Predictor.open(place), file_digest(place / MANIFEST)
                    self.served = Served(predictor, version, folder.name, _now())
                    self._served_identity = identity
                self.refused, self._refused_identity = None, None
        except Exception as error:  # whatever is wrong with it, the version before stays
            self._refuse(folder.name, str(error))
            self._refused_identity = identity

    def _refuse(self, name: str, error: str) -> None:
        if self.refused is None or (self.refused.name, self.refused.error) != (name, error):
            self.refused = Refused(name, error, _now())
        self._refused_identity = None


@contextmanager
def _pinned(folder: Path) -> Iterator[Path]:
    """Yield a path that leads to this folder even when another is given its name, so that no two are mixed.

    Raises ArtefactError, with the folder's own name, for what goes wrong with its files meanwhile.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ArtefactError(f"{folder.name}: cannot be opened ({error.strerror})") from None
    pinned = Path(f"/proc/self/fd/{handle}")
    try:
        yield pinned if pinned.exists() else folder  # where there is no /proc, only links can be replaced
    except (ValueError, OSError) as error:
        raise ArtefactError(str(error).replace(str(pinned), folder.name)) from None
    finally:
        os.close(handle)


def _identity(place: Path) -> Identity:
    """Return what changes when a folder is another, or one of its files."""
    files = sorted(file for file in place.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(place)), file.stat()) for file in files]
    folder = place.stat()
    return (
        (folder.st_dev, folder.st_ino),
        *((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats),
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
