"""Files and folders that appear whole, locks that die with their process, and digests.

Everything is written under a random name beside its target and renamed, so that a killed process leaves the target as it
was and two processes never write one file. What a killed process left is removed when the same target is written next.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import recsys_cython_ext._hashing as _hashing
from recsys_cython_ext.hashing import xxh64

_BLOCK = 1 << 20  # bytes read at a time
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class CannotWrite(OSError):
    """A file cannot be written, as on a full disk; the message names it and the free bytes."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends, and is removed when it fails.

    Raises FileExistsError when `path` exists by then, CannotWrite when the disk is full.
    """
    with _workspace(path) as folder:
        yield folder
        for inside in folder.rglob("*"):
            if inside.is_file():
                _set_permissions(inside, folder)
        if path.exists():
            raise FileExistsError(f"{path}: exists already")
        folder.rename(path)


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield a path for a library to write to; the file becomes `path` when the block ends, and goes when it fails.

    Raises CannotWrite when the disk is full.
    """
    with _workspace(path) as folder:
        file = folder / path.name
        yield file
        _set_permissions(file, folder)
        file.replace(path)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file to write to that becomes `path` when the block ends; otherwise as `new_path`."""
    with new_path(path) as partial, partial.open("xb") as file:
        yield file


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 file that appears whole."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(value: Any, path: Path) -> None:
    """Write a file of indented JSON that appears whole."""
    write_text(json.dumps(value, indent=1), path)


def link(source: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the file system has no links."""
    with new_path(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def file_digest(path: Path) -> str:
    """Return the XXH64 of a file, as 16 hexadecimal digits: it tells damage and change, not intent."""
    stream = _hashing.Xxh64()
    with path.open("rb") as file:  # buffered, so that only the last block is a short one
        while len(block := file.read(_BLOCK)) == _BLOCK:
            stream.add(block)
    return f"{stream.finish(block):016x}"


def seal(file: Path) -> None:
    """Write the checksum of a finished file beside it, as `<name>.xxh64`, for `is_sealed` to compare."""
    write_text(file_digest(file) + "\n", seal_of(file))


def is_sealed(file: Path) -> bool:
    """Tell whether a file and its checksum are there, and agree: what else is found was cut off, or is damaged."""
    try:
        return seal_of(file).read_bytes().decode().strip() == file_digest(file)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def seal_of(file: Path) -> Path:
    """Return where the checksum of a file lies that `seal` wrote."""
    return file.with_name(f"{file.name}.xxh64")


def text_digest(text: str) -> str:
    """Return the XXH64 of a text's UTF-8 bytes, as 16 hexadecimal digits, to name what the text describes."""
    return digest(text.encode())


def digest(data: bytes) -> str:
    """Return the XXH64 of bytes, as 16 hexadecimal digits."""
    return f"{xxh64(data):016x}"


def lock_of(path: Path) -> Path:
    """Return the lock file of a target: hidden, beside it."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(file: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold `file`, which is made where it is missing, against all other processes; a lock dies with its process.

    Waits for as long as another holds it; with `seconds`, raises TimeoutError after so many.
    """
    until = None if seconds is None else time.monotonic() + seconds
    handle = _open_and_lock(file, until)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # whoever waits for it finds that it is gone, and makes it anew
        os.close(handle)


@contextmanager
def in_use(folder: Path, alone: bool = False) -> Iterator[None]:
    """Hold a folder together with all others who use it, waiting for one who is alone there; nothing is written.

    With `alone`, raises TimeoutError where anybody else holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            raise TimeoutError(f"{folder}: another process works there") from None
        except OSError:  # a file system that locks no folders
            if alone:
                raise
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a lock file, or the workspace that it writes to; what is not there nobody holds."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # not there, or a link
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who look see each other not
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def is_workspace(path: Path) -> bool:
    """Tell whether a path is a folder that something is being written in, or was when its process was killed."""
    return (
        re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name) is not None
        and path.is_dir()
        and not path.is_symlink()
    )


def remove_workspace(folder: Path) -> bool:
    """Remove what a killed process was writing to; False where its process lives, or it is gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or planted: no folder of ours
        return False
    try:
        free = _held(handle, wait=False)
        if free:
            shutil.rmtree(folder, ignore_errors=True)
        return free
    finally:
        os.close(handle)


def remove(path: Path, lock: Path, still: Callable[[], bool]) -> bool:
    """Remove a file or folder while holding its lock, if it is `still` to be removed; False where it is not.

    A folder goes whole: a process that is killed meanwhile leaves a workspace, and nothing under the folder's name.
    """
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError:  # gone with its folder, or a link
        return False
    try:
        if not (_held_soon(handle) and os.path.samestat(os.fstat(handle), lock.stat())):
            return False
        if still():
            aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink()
        lock.unlink(missing_ok=True)
        return not path.exists()
    except FileNotFoundError:  # the process that held the lock has removed it
        return False
    finally:
        os.close(handle)


def _open_and_lock(file: Path, until: float | None) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        while not _held(handle, wait=until is None):
            if until is not None and time.monotonic() >= until:
                os.close(handle)
                raise TimeoutError(f"{file}: another process holds it")
            time.sleep(0.1)
        try:
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the process that held it has removed it


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, locked so that no other process takes it for one that was left behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        folder, handle = _new_locked_folder(path)
    except OSError as error:
        raise _explained(path, error) from error
    try:
        yield folder
    except (CannotWrite, FileExistsError):
        raise
    except OSError as error:
        if error.errno is None or error.errno in _NO_ROOM:  # NumPy's have no number
            raise _explained(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _new_locked_folder(path: Path) -> tuple[Path, int]:
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        folder.mkdir()
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another process saw it before it was locked, and removed it
            continue
        if _held(handle, wait=False) and folder.exists():
            return folder, handle
        os.close(handle)


def _remove_left_behind(path: Path) -> None:
    """Remove the unlocked workspaces of a target: their processes are gone."""
    for folder in path.parent.glob(f".{_escaped(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        remove_workspace(folder)


def _held_soon(handle: int) -> bool:
    """Lock a file unless a process holds it for longer than `is_locked` does."""
    for _ in range(10):
        if _held(handle, wait=False):
            return True
        time.sleep(0.05)
    return False


def _held(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _set_permissions(file: Path, folder: Path) -> None:
    """Give a file the permissions of the umask, which the folder was made with; some libraries choose their own."""
    file.chmod(folder.stat().st_mode & 0o666)


def _explained(path: Path, error: OSError) -> CannotWrite:
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free"
    except OSError:
        free = "its folder cannot be used"
    explained = CannotWrite(f"{path}: cannot be written ({error}): {free}; make room, or name another place")
    explained.errno = error.errno
    return explained


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
