"""Leftovers are removed one by one, each while its lock is held, and only where no job is at work in their folders."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from recsys.cleaning.survey import METRICS, Leftover, survey
from recsys_cython_ext.files import in_use, is_workspace, locked, remove, remove_workspace, seal_of

ALWAYS = ("temporary files", "lock")  # no job that lives wants these


@dataclass(frozen=True)
class Removal:
    """What was removed, and what was kept, with the reason."""

    removed: list[Leftover]
    kept: list[tuple[Leftover, str]]


def remove_leftovers(
    leftovers: Sequence[Leftover], runs: Path, prepared: Path, older_than: float | None
) -> Removal:
    """Remove leftovers that are still such; while a job is at work there, only what killed jobs were writing."""
    removed: list[Leftover] = []
    kept: list[tuple[Leftover, str]] = []
    with ExitStack() as stack:
        busy = [root for root in {runs, prepared} if root.exists() and not _alone(stack, root)]
        still = {leftover.path for leftover in survey(runs, prepared, older_than)}
        for leftover in leftovers:
            if leftover.path not in still:
                kept.append((leftover, "gone, or in use by now"))
            elif busy and leftover.kind not in ALWAYS:
                kept.append((leftover, f"a job is at work in {', '.join(map(str, busy))}"))
            elif _removed(leftover):
                removed.append(leftover)
            else:
                kept.append((leftover, "a job is at work on it"))
    return Removal(removed, kept)


def _alone(stack: ExitStack, root: Path) -> bool:
    """Hold a folder alone for as long as the stack lasts; False where a job, or another `clean`, uses it."""
    try:
        stack.enter_context(in_use(root, alone=True))
    except OSError:  # TimeoutError, or a file system without locks
        return False
    return True


def _removed(leftover: Leftover) -> bool:
    path = leftover.path
    if is_workspace(path):
        return remove_workspace(path)
    if leftover.kind == "lock":
        with suppress(OSError), locked(path, 0):  # which ends with removing it
            return True
        return False
    is_done = remove(path, leftover.lock, lambda: path.exists() and not _has_finished(leftover))
    if is_done:
        seal_of(path).unlink(missing_ok=True)
        if leftover.kind == "run":
            with suppress(OSError):
                path.parent.rmdir()  # of other seeds, unless there are such
    return is_done


def _has_finished(leftover: Leftover) -> bool:
    """Tell whether what was unfinished has been finished meanwhile."""
    return leftover.reason == "unfinished" and any(
        (leftover.path / name).exists() for name in (METRICS, "manifest.json")
    )
