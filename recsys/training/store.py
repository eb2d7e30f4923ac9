"""The checkpoints of a run that trains: saved beside training, a few kept, the newest whole one read back.

<run>/checkpoints/steps-<n>/   after n batches, as `recsys_tables.checkpoint` writes it; `about` holds the
                               configuration's and the prepared set's digests and the `TrainingState`
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
from recsys.training.state import TrainingState
from recsys_tables.agreement import agree
from recsys_tables.changes import Baseline
from recsys_tables.checkpoint import Checkpoint, CheckpointError, OtherVersion, base_of, save
from recsys_tables.pieces import Piece, refresh, snapshot


class Store:
    """Checkpoints under `root`, a folder that all ranks see. All ranks call every method; use it as a context.

    `about`: what a checkpoint must say of itself to be gone on from, by name, such as the configuration's digest.
    `warn`: is told of checkpoints that are damaged.
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
        self._mirror = None if config.url is None else Mirror(config.url)
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

        Raises CheckpointError when it is of another configuration or prepared set, or does not fit the model.
        """
        newest = on_rank_0(self._newest)
        if newest is None:
            return TrainingState()
        checkpoint = agree(lambda: Checkpoint(self.root / newest))
        checkpoint.load_into(model)
        state = TrainingState(**checkpoint.about["state"])
        optimizer.load(checkpoint.extra(), state.steps)
        return state

    def load_best(self, model: DistributedModelParallel, state: TrainingState) -> None:
        """Load the checkpoint of the best evaluation."""
        self.wait()
        agree(lambda: Checkpoint(self.root / name_of(state.best_steps))).load_into(model)

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
        if self._mirror is not None:
            self._mirror.upload(newest)
        names = names_in(self.root)
        kept = set(names[-self._config.keep :]) | {name_of(best_steps)}
        if self._since is not None and self._since.name is not None:
            kept.add(self._since.name)
        kept |= {base for name in kept & set(names) if (base := base_of(self.root / name)) is not None}
        for path in self.root.iterdir():
            if path.name not in kept:
                _remove(path)
        if self._mirror is not None:
            self._mirror.keep(kept)

    def _newest(self) -> str | None:
        """Name of the newest checkpoint that is whole, and whose best evaluation's is.

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
                found = Checkpoint(self.root / name)
                best = name_of(found.about["state"]["best_steps"])
                if found.about["state"]["best"] and best != name:
                    Checkpoint(self.root / best)
            except OtherVersion:
                raise
            except CheckpointError as error:
                self._warn(f"{error}: going on from an older checkpoint")
                damaged.append(self.root / name)
                continue
            for key, wanted in self._about.items():
                if found.about.get(key) != wanted:
                    raise CheckpointError(
                        f"{found.folder}: its {key} is {found.about.get(key)}, and {wanted} here; restore what it was "
                        f"trained with, or delete {self.root.parent} to train from the beginning"
                    )
            newest = name
            break
        for path in damaged:
            _remove(path)
        if damaged and newest is None:
            self._warn(f"{self.root}: no whole checkpoint is left; training begins anew")
        return newest


def _remove(path: Path) -> None:
    """Delete a folder; one that is half deleted does not look like a checkpoint."""
    dying = path.with_suffix(".tmp")
    path.replace(dying)
    shutil.rmtree(dying, ignore_errors=True)


def discard(root: Path, config: CheckpointConfig) -> None:
    """Remove all checkpoints, the copies at `config.url` too: the run is finished."""
    shutil.rmtree(root, ignore_errors=True)
    if config.url is not None:
        Mirror(config.url).keep(())


def name_of(steps: int) -> str:
    """Folder of the checkpoint after so many batches; names sort as numbers do."""
    return f"steps-{steps:010d}"


def names_in(root: Path) -> list[str]:
    """Finished checkpoints of a folder, oldest first, whole or damaged."""
    return sorted(path.name for path in root.glob("steps-*") if path.suffix != ".tmp")


@dataclass(frozen=True)
class Listed:
    """One checkpoint of a run, and what is wrong with it."""

    name: str
    bytes: int
    step: int | None = None
    epoch: float | None = None
    rows: int | None = None
    base: str | None = None
    best: bool = False
    damage: str | None = None


def listed(run: Path) -> list[Listed]:
    """Verify every checkpoint of a run folder, oldest first; the finished model's, if there is one, is the last.

    Best is what the newest whole one says is best so far.
    """
    found = []
    best: str | None = None
    root = run / "checkpoints"
    folders = [root / name for name in names_in(root)]
    if (run / "checkpoint").exists():
        folders.append(run / "checkpoint")
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.iterdir())
        try:
            saved = Checkpoint(folder)
        except CheckpointError as error:
            found.append(Listed(folder.name, size, damage=str(error)))
            continue
        state = saved.about.get("state", {})
        base = None if saved.base is None else saved.base.folder.name
        found.append(
            Listed(folder.name, size, state.get("steps"), state.get("epoch"), state.get("rows"), base)
        )
        if folder.name == "checkpoint":
            best = folder.name
        elif state["best"]:
            best = name_of(state["best_steps"])
    return [replace(item, best=item.name == best) for item in found]
