"""Checkpoints of a run that trains are saved beside training; a few stay, and the newest whole one is read back.

<run>/checkpoints/steps-<n>/   after n batches, as `recsys_tables.distributed.checkpoint` writes it; `about` holds the
                               configuration's and the prepared set's digests and the `TrainingState`
<job.checkpoint.url>/<name>-<digest>/seed-<k>/steps-<n>/
                               copies, where there is a URL: every run has a folder of its own below it
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel

from recsys.config import CheckpointConfig
from recsys.training.distributed import on_rank_0
from recsys.training.mirror import Mirror
from recsys.training.optimizers import Optimizer
from recsys.training.run import CHECKPOINT, CHECKPOINTS
from recsys.training.state import TrainingState
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.changes import Baseline
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError, OtherVersion, base_of
from recsys_tables.distributed.pieces import Piece, refresh, snapshot
from recsys_tables.distributed.saving import save


class Store:
    """Checkpoints under `root`, a folder that all ranks see. All ranks call every method; use it as a context.

    Args:
        root: The folder.
        config: When checkpoints are written, and which stay.
        about: What a checkpoint must say of itself to be gone on from, by name, such as the configuration's digest.
        warn: Is told of checkpoints that are damaged.
    """

    def __init__(
        self,
        root: Path,
        config: CheckpointConfig,
        about: Mapping[str, str],
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.root = root
        self._config, self._about, self._warn = config, dict(about), warn
        self._since = Baseline() if config.incremental else None
        self._mirror = _mirror_of(root, config)
        self._places = f"{root.parent}" if self._mirror is None else f"{root.parent} and {self._mirror.url}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recsys-checkpoint")
        # messages of the saving thread must not meet those of training
        self._group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        self._pending: Future[None] | None = None
        self._staged: list[Piece] | None = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let a save that has begun end; its own failure matters only where nothing else failed."""
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()
            if self._group is not None:
                dist.destroy_process_group(self._group)

    def save(self, model: DistributedModelParallel, optimizer: Optimizer, state: TrainingState) -> None:
        """Copy what this rank holds, and write it while training goes on; waits for the save before.

        Raises the OSError or CheckpointError of the save before this one.
        """
        self.wait()
        if self._staged is None:
            self._staged = snapshot(model)
        else:
            refresh(self._staged, model)
        extra = {name: value.detach().cpu().clone() for name, value in optimizer.state().items()}
        about = self._about | {"state": state.to_dict()}
        self._pending = self._thread.submit(self._save, model, about, self._staged, extra, state.best_steps)

    def wait(self) -> None:
        """Wait for the save that has begun, if one has. Raises as it did."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def resume(self, model: DistributedModelParallel, optimizer: Optimizer) -> TrainingState:
        """Load the newest whole checkpoint and return where it was; the beginning, where there is none.

        Raises CheckpointError when it is of another configuration, prepared set or version, or does not fit the model.
        """
        newest = on_rank_0(self._newest)
        if newest is None:
            return TrainingState()
        checkpoint = agree(lambda: Checkpoint(self.root / newest))
        checkpoint.load_into(model)
        state = self._state_of(checkpoint)
        optimizer.load(checkpoint.extra(), state.steps)
        return state

    def load_best(self, model: DistributedModelParallel, optimizer: Optimizer, state: TrainingState) -> None:
        """Load the checkpoint of the best evaluation."""
        self.wait()
        best = agree(lambda: Checkpoint(self.root / name_of(state.best_steps)))
        best.load_into(model)
        optimizer.load(best.extra(), state.best_steps)

    def _save(
        self,
        model: DistributedModelParallel,
        about: Mapping[str, Any],
        state: Sequence[Piece],
        extra: Mapping[str, Any],
        best_steps: int,
    ) -> None:
        folder = self.root / name_of(about["state"]["steps"])
        save(folder, model, about, state, extra=extra, since=self._since, group=self._group)
        agree(lambda: self._retain(folder, best_steps) if dist.get_rank() == 0 else None, self._group)

    def _retain(self, newest: Path, best_steps: int) -> None:
        """Keep the newest few, the best, and the full ones that these are changes of; here and in the mirror."""
        names = names_in(self.root)
        needed = {*names[-self._config.keep :], name_of(best_steps)}
        full = None if self._since is None else self._since.name  # what the next one may be changes of
        bases = {full}
        damaged: set[str] = set()
        for name in sorted(needed & set(names) - {full}):
            try:
                bases.add(base_of(self.root / name))
            except CheckpointError as error:
                self._warn(f"{error}: going on without it")
                damaged.add(name)
        needed |= {base for base in bases if base is not None}
        for path in sorted(self.root.iterdir(), reverse=True):  # changes before what they are changes of
            if path.name not in needed - damaged:
                _remove(path)
        if self._mirror is not None:
            lacking = needed & set(names) - damaged - set(self._mirror.names())
            for name in sorted(lacking | {newest.name}):  # what they are changes of before changes
                self._mirror.upload(self.root / name)
            self._mirror.keep(needed)  # its copy of one that is damaged here may be whole

    def _state_of(self, checkpoint: Checkpoint) -> TrainingState:
        """Return where training was. Raises OtherVersion when it does not say so as this program does."""
        state = checkpoint.about.get("state", {})
        if other := sorted(state.keys() ^ TrainingState().to_dict().keys()):  # a default would be another run
            raise OtherVersion(
                f"{checkpoint.folder}: its state is of another version ({', '.join(other)}); delete "
                f"{self._places} to train from the beginning"
            )
        return TrainingState(**state)

    def _newest(self) -> str | None:
        """Return the name of the newest checkpoint that is whole, and whose best evaluation's is.

        Those after it, which are not, make room: training will write them anew. Raises CheckpointError when it is of
        something else than is trained here.
        """
        damaged = []
        for path in self.root.glob("*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        here = names_in(self.root)
        if self._mirror is not None:
            for name in self._mirror.names():
                if name not in here:
                    self._mirror.download(name, self.root)
        newest: str | None = None
        for name in reversed(names_in(self.root)):
            try:
                checkpoint = Checkpoint(self.root / name)
                state = self._state_of(checkpoint)
                best = name_of(state.best_steps)
                if state.best and best != name:
                    Checkpoint(self.root / best)
            except OtherVersion:
                raise
            except CheckpointError as error:
                self._warn(f"{error}: going on from an older checkpoint")
                damaged.append(self.root / name)
                continue
            self._require_same(checkpoint)
            newest = name
            break
        for path in damaged:
            _remove(path)
        if damaged and newest is None:
            self._warn(f"{self.root}: no whole checkpoint is left; training begins anew")
        return newest

    def _require_same(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError where it is of something else than is trained here."""
        for key, value in self._about.items():
            if (saved := checkpoint.about.get(key)) != value:
                raise CheckpointError(
                    f"{checkpoint.folder}: its {key} is {saved}, and {value} here; restore what it was trained with, or "
                    f"delete {self._places} to train from the beginning"
                )


def _remove(path: Path) -> None:
    """Delete a folder; one that is half deleted does not look like a checkpoint."""
    dying = path.with_suffix(".tmp")
    path.replace(dying)
    shutil.rmtree(dying, ignore_errors=True)


def discard(root: Path, config: CheckpointConfig) -> None:
    """Remove all checkpoints, the run's copies at `config.url` too: it is finished."""
    for name in reversed(names_in(root)):
        _remove(root / name)
    shutil.rmtree(root, ignore_errors=True)
    mirror = _mirror_of(root, config)
    if mirror is not None:
        mirror.keep(())


def _mirror_of(root: Path, config: CheckpointConfig) -> Mirror | None:
    """Return the copies of a run's checkpoints; runs that share a URL have folders below it as they have below `runs`."""
    if config.url is None:
        return None
    run = root.parent
    return Mirror(f"{config.url.removesuffix('/')}/{run.parent.name}/{run.name}")


def name_of(steps: int) -> str:
    """Return the folder's name of the checkpoint after so many batches; names sort as numbers do."""
    return f"steps-{steps:010d}"


def names_in(root: Path) -> list[str]:
    """Return the names of a folder's finished checkpoints, oldest first, whole or damaged."""
    return sorted(path.name for path in root.glob("steps-*") if path.suffix != ".tmp")


@dataclass(frozen=True)
class Listed:
    """A line of a listing: one checkpoint of a run, and what is wrong with it."""

    name: str
    bytes: int
    step: int | None = None
    epoch: float | None = None
    rows: int | None = None
    base: str | None = None
    best: bool = False
    damage: str | None = None


def listed(run: str | Path) -> list[Listed]:
    """Verify every checkpoint of a run folder, oldest first; the finished model's, if there is one, is the last.

    Best is what the newest whole one says is best so far. The run may be training: what it removes meanwhile is left out.
    """
    listing = []
    best: str | None = None
    root, finished = Path(run) / CHECKPOINTS, Path(run) / CHECKPOINT
    folders = [root / name for name in names_in(root)]
    if finished.exists():
        folders.append(finished)
    for folder in folders:
        size = 0
        try:
            size = sum(file.stat().st_size for file in folder.iterdir())
            saved = Checkpoint(folder)
        except (CheckpointError, FileNotFoundError) as error:
            if folder.exists():
                listing.append(Listed(folder.name, size, damage=str(error)))
            continue
        state = saved.about.get("state", {})
        base = None if saved.base is None else saved.base.folder.name
        listing.append(
            Listed(folder.name, size, state.get("steps"), state.get("epoch"), state.get("rows"), base)
        )
        if folder == finished:
            best = folder.name
        elif best_steps := state.get("best_steps"):
            best = name_of(best_steps)
    return [replace(item, best=item.name == best) for item in listing]
