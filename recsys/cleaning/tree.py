"""What lies below a folder, without following a link: its files' bytes and times, locks, and names in its YAML."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from recsys_cython_ext.files import is_locked, is_workspace

DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")  # what folders and records are named by


def folders(root: Path) -> list[Path]:
    """Return the folders in a folder by name, links left out; none where it is not there."""
    try:
        entries = list(os.scandir(root))
    except FileNotFoundError:
        return []
    return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))


def files(root: Path, ending: str) -> list[Path]:
    """Return the files in a folder whose names have an ending, hidden ones and links left out."""
    return sorted(
        path
        for path in root.glob(f"*{ending}")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )


def walk(root: Path) -> Iterator[Path]:
    """Yield all files and folders below a folder."""
    for parent, inner, names in os.walk(root):
        yield from (Path(parent, name) for name in (*inner, *names))


def size_and_time(path: Path) -> tuple[int, float]:
    """Return the bytes of a file or of a folder's files, and when the newest of them was written; 0 where it is gone."""
    total, newest, of_folder = 0, 0.0, 0.0
    for file in [path, *walk(path)]:
        try:
            status = file.lstat()
        except FileNotFoundError:  # a job at work, or another `clean`, has removed it
            continue
        if not stat.S_ISDIR(status.st_mode):  # whose time is that of the last removal, too
            total, newest = total + status.st_size, max(newest, status.st_mtime)
        elif file == path:
            of_folder = status.st_mtime
    return total, newest or of_folder


def is_lock(path: Path) -> bool:
    """Tell whether a file is named like a lock."""
    return path.name == ".lock" or (path.name.startswith(".") and path.name.endswith(".lock"))


def is_held(root: Path) -> bool:
    """Tell whether a process holds a lock or a workspace anywhere below a folder."""
    return any((is_lock(path) or is_workspace(path)) and is_locked(path) for path in walk(root))


def names_in(root: Path) -> set[str]:
    """Return the digests that experiments and studies below a folder name, such as codes that they read."""
    names: set[str] = set()
    for path in walk(root):
        if path.suffix in (".yaml", ".yml") or path.name == "study.json":
            with suppress(FileNotFoundError):
                names.update(DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")))
    return names
