"""Locks on open files that die with their process, by platform: `flock`, and a locked byte on Windows.

Windows opens no folders: there, workspaces that a killed process has left behind are not told from those in use, and stay.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
    import time

    def open_lock(file: Path) -> int:
        """Open a lock file, which is made where it is missing."""
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)

    def open_folder(folder: Path) -> int | None:
        """Return None: there are no locks on folders."""
        return None

    def acquire(handle: int, wait: bool) -> bool:
        """Lock an open file; return False where another process holds it and we do not wait."""
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
                time.sleep(0.1)
            else:
                return True

    def release(handle: int, file: Path) -> None:
        """Let go of a lock and remove its file, unless another process has opened it."""
        os.close(handle)
        with suppress(PermissionError):
            file.unlink(missing_ok=True)

else:
    import fcntl

    def open_lock(file: Path) -> int:
        """Open a lock file, which is made where it is missing; a link is an OSError."""
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def open_folder(folder: Path) -> int | None:
        """Open a folder to lock it; a link is an OSError."""
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def acquire(handle: int, wait: bool) -> bool:
        """Lock an open file or folder; return False where another process holds it and we do not wait."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(handle: int, file: Path) -> None:
        """Remove a lock file and let go of its lock."""
        file.unlink(missing_ok=True)  # whoever waits for it finds that it is gone, and makes it anew
        os.close(handle)
