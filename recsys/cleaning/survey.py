"""What can be removed from the folders of runs and of prepared data, and why.

Only what this program has made is known by its name and looked at; anything else, and every link, stays.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.cleaning import tree
from recsys.config import parse_experiment
from recsys.config.yaml_text import parse_yaml
from recsys_cython_ext.files import is_locked, is_workspace, lock_of, seal_of

Reason = Literal["unfinished", "superseded", "old"]
NAMED = re.compile(r".+-[0-9a-f]{16}")  # a folder of runs, of prepared data, or of a search
SEED = re.compile(r"seed-[0-9]+")
SEARCH = re.compile(r".+-(students|search)-[0-9a-f]{16}|reward-.+-[0-9a-f]{16}")
GENERATED = re.compile(r"generated-[0-9a-f]{16}\.parquet")
MANIFEST, LOCK = "manifest.json", ".lock"
METRICS, SETTINGS, CHECKPOINTS = (
    "metrics.json",
    "config.yaml",
    "checkpoints",
)  # of a run: `recsys.training.run`
PARTS = {
    "staged",
    "history",
    "features",
    "train",
    "validation",
    "test",
    "quarantine",
    LOCK,
}  # of a prepared set


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed.

    Attributes:
        path: Where it lies.
        kind: What it is.
        reason: Why it can be removed; `why` says it in words.
        lock: The file that whoever writes to it holds; the path itself of a workspace or a lock.
    """

    path: Path
    kind: str
    reason: Reason
    why: str
    lock: Path
    bytes: int
    modified: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "reason": self.reason,
            "why": self.why,
            "bytes": self.bytes,
            "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.modified)),
        }


def survey(runs: Path, prepared: Path, older_than: float | None = None) -> list[Leftover]:
    """Return what is unfinished, superseded, or was written more than `older_than` seconds ago, without what jobs hold."""
    return list(_Survey(runs, prepared, older_than).leftovers())


class _Survey:
    """One look at both folders."""

    def __init__(self, runs: Path, prepared: Path, older_than: float | None) -> None:
        self._runs, self._prepared = runs, prepared
        self._at_work = runs.exists() and tree.is_held(runs)  # a job may read what no run names yet
        self._before = None if older_than is None else time.time() - older_than
        self._run_folders = [
            seed
            for parent in tree.folders(runs)
            if NAMED.fullmatch(parent.name)
            for seed in tree.folders(parent)
            if SEED.fullmatch(seed.name)
        ]

    def leftovers(self) -> Iterator[Leftover]:
        of_runs = list(self._of_runs())
        gone = {leftover.path for leftover in of_runs}
        of_prepared = list(self._of_prepared(gone))
        inside = gone | {leftover.path for leftover in of_prepared}
        yield from of_runs
        yield from of_prepared
        if not self._at_work:
            yield from self._of_records()
        yield from self._temporary(inside)

    def _of_runs(self) -> Iterator[Leftover]:
        named_by = {folder: tree.names_in(folder) for folder in tree.folders(self._runs)}
        for seed in self._run_folders:
            lock = lock_of(seed)
            if is_locked(lock) or tree.is_held(seed):
                continue
            if not (seed / METRICS).exists():
                why = "its command goes on from its checkpoint"
                if not (seed / CHECKPOINTS).exists():
                    why = "nothing of it was saved"
                yield _leftover(seed, "run", "unfinished", f"killed before it had ended; {why}", lock)
                continue
            digest = seed.parent.name.rpartition("-")[2]
            named = any(digest in names for folder, names in named_by.items() if folder != seed.parent)
            if not named and (old := self._old(seed, "run", lock)):
                yield old
        for folder in tree.folders(self._runs):
            if SEARCH.fullmatch(folder.name) and not tree.is_held(folder):
                old = self._old(folder, "search", lock_of(folder))
                yield from [] if old is None else [old]

    def _of_prepared(self, gone: set[Path]) -> Iterator[Leftover]:
        """Yield prepared sets that are unfinished or no run refers to, the runs that are `gone` left out."""
        refers, any_refers = self._references(gone), self._references(set())
        kept: set[str] = set()
        for folder in tree.folders(self._prepared):
            finished = (folder / MANIFEST).exists()
            if not NAMED.fullmatch(folder.name) or not (finished or _is_unfinished_set(folder)):
                continue
            kept.add(folder.name)
            lock = folder / LOCK
            if is_locked(lock) or tree.is_held(folder):
                continue
            leftover = None
            if not finished:
                why = "killed before it had ended; its command goes on from what it has read"
                leftover = _leftover(folder, "prepared set", "unfinished", why, lock)
            elif not self._at_work and not any_refers(folder):
                why = f"no run below {self._runs} was trained on it"
                leftover = _leftover(folder, "prepared set", "superseded", why, lock)
            elif not self._at_work and not refers(folder):
                leftover = self._old(folder, "prepared set", lock)
            if leftover is not None:
                kept.discard(folder.name)
                yield leftover
        for file in tree.files(self._prepared, ".parquet"):
            used = any(name.startswith(f"{file.stem}-") for name in kept)
            if GENERATED.fullmatch(file.name) and not used and not is_locked(lock_of(file)):
                why = "no prepared set that stays was made of it"
                yield _leftover(file, "generated log", "superseded", why, lock_of(file))

    def _references(self, gone: set[Path]) -> Callable[[Path], bool]:
        """Return what tells whether a run that is not `gone` was trained on a prepared set, or is about to be."""
        paths: set[Path] = set()
        unknown: list[tuple[Any, str]] = []
        for seed in self._run_folders:
            if seed in gone:
                continue
            try:
                if (seed / METRICS).exists():
                    paths.add(Path(json.loads((seed / METRICS).read_text())["prepared"]).resolve())
                elif (seed / SETTINGS).exists():  # else it begins anew
                    settings = parse_experiment(parse_yaml((seed / SETTINGS).read_text()), str(seed))
                    unknown.append((settings.replace({"training.seed": 0}), seed.parent.name))
            except (OSError, ValueError, KeyError, TypeError):
                return lambda _: True  # what cannot be read may refer to any

        def refers(folder: Path) -> bool:
            try:
                about_to = any(name.endswith(settings.digest(folder)) for settings, name in unknown)
            except (OSError, ValueError):
                return True
            return about_to or folder.resolve() in paths

        return refers

    def _of_records(self) -> Iterator[Leftover]:
        """Yield codes and teachers' predictions that no experiment names, and trials that ended before they were done."""
        names = tree.names_in(self._runs) if self._runs.exists() else set()
        codes = [("codes", path) for path in tree.folders(self._runs / "codes")]
        teachers = [
            ("teachers' predictions", path) for path in tree.files(self._runs / "teachers", ".parquet")
        ]
        for kind, path in codes + teachers:
            if path.stem in names or is_locked(lock_of(path)) or not tree.DIGEST.fullmatch(path.stem):
                continue
            yield _leftover(path, kind, "superseded", "no experiment or run names them", lock_of(path))
        for path in tree.files(self._runs / "trials", ".json"):
            if is_locked(lock_of(path)) or not tree.DIGEST.fullmatch(path.stem):
                continue
            if path.stem not in names and not _has_ended(path):
                why = "stopped before its end, and no study names it"
                yield _leftover(path, "trial", "superseded", why, lock_of(path))
            elif path.stem not in names and (old := self._old(path, "trial", lock_of(path))):
                yield old
        for path in tree.folders(self._runs / "tune"):
            if not tree.is_held(path) and (old := self._old(path, "study", path / LOCK)):
                yield old

    def _temporary(self, inside: set[Path]) -> Iterator[Leftover]:
        """Yield what killed jobs were writing to and the locks they held, outside of what goes anyway."""
        for root in {self._runs, self._prepared}:
            for path in tree.walk(root):
                if not inside.isdisjoint(path.parents):
                    continue
                if is_workspace(path) and not is_locked(path):
                    yield _leftover(path, "temporary files", "unfinished", "left by a killed job", path)
                elif tree.is_lock(path) and not path.is_symlink() and not is_locked(path):
                    yield _leftover(path, "lock", "unfinished", "left by a killed job", path)
                elif path.name.endswith(".ray") and SEED.fullmatch(path.name[1:-4]) and not path.is_symlink():
                    lock = lock_of(path.with_name(path.name[1:-4]))
                    if not is_locked(lock):
                        yield _leftover(
                            path, "temporary files", "unfinished", "left by a lost driver of Ray", lock
                        )

    def _old(self, path: Path, kind: str, lock: Path) -> Leftover | None:
        """Return a leftover where all of it was written too long ago."""
        if self._before is None:
            return None
        leftover = _leftover(path, kind, "old", "", lock)
        if leftover.modified >= self._before:
            return None
        days = (time.time() - leftover.modified) / 86400
        return _leftover(path, kind, "old", f"written {days:,.0f} days ago", lock)


def _leftover(path: Path, kind: str, reason: Reason, why: str, lock: Path) -> Leftover:
    size, modified = tree.size_and_time(path)
    seal = seal_of(path)
    with suppress(FileNotFoundError):
        size += seal.stat().st_size
    return Leftover(path, kind, reason, why, lock, size, modified)


def _is_unfinished_set(folder: Path) -> bool:
    try:
        return all(path.name in PARTS or path.name.startswith(".") for path in folder.iterdir())
    except FileNotFoundError:  # another `clean` has removed it
        return False


def _has_ended(trial: Path) -> bool:
    try:
        return json.loads(trial.read_text())["end"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        return True  # damaged: whoever reads it says so
