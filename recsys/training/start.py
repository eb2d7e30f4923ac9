"""What a training begins with, where its first values are not drawn: `training.start`, a file of weights or a run.

A run goes on from another's tables, network and the states of their optimisers, such as yesterday's. Batches, epochs,
warm-up and schedule are its own, and begin at 0. A vocabulary may have grown at its end (`recsys prepare --append`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel

from recsys.config import ConfigError, ExperimentConfig
from recsys.training.optimizers import Optimizer, rate_factor
from recsys_pipelines.features import Categorical, Features
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.pieces import load_start


def trained_by(config: ExperimentConfig) -> dict[str, str]:
    """Return what the states in a run's checkpoint mean something to; it is kept there, as `trained_by`."""
    training = config.training
    return {
        "model.name": config.model.name,
        "training.table_optimizer": training.table_optimizer,
        "training.dense_optimizer": training.dense_optimizer,
    }


def begin(
    config: ExperimentConfig,
    features: Features,
    model: DistributedModelParallel,
    optimizer: Optimizer,
    tell: Callable[[str], None],
) -> None:
    """Fill model and optimiser with what `training.start` names, if it names anything. Every rank calls it.

    features: those of the rows that are trained on. tell: is told, on rank 0, what the training begins with.

    Raises ValueError naming the run and what does not fit (a setting, a feature, a scheme, a shape, the hash version),
    and as `load_start` does; the model is then as before, on every rank.
    """
    start = config.training.start
    if start is None:
        return
    if isinstance(start, Path):
        return load_start(start, model)
    saved, before = agree(lambda: _opened(start.run, config, features))
    saved.load_into(model)
    done = saved.about["state"]
    optimizer.inherit(saved.extra(), done["steps"])
    if dist.get_rank() == 0:
        tell(_sentence(start.run, done, config, optimizer, _new_ids(before, features)))


def _opened(run: Path, config: ExperimentConfig, features: Features) -> tuple[Checkpoint, Features]:
    """Return a run's checkpoint and features, which are found to fit."""
    saved, before = Checkpoint(run / "checkpoint"), Features.load(run / "features")
    was: Any = saved.about.get("trained_by")
    if was is None:
        raise ConfigError(
            f"{run}: another version of this program trained it, and kept no states of optimisers: train it again"
        )
    for key, mine in trained_by(config).items():
        if was.get(key) != mine:
            raise ConfigError(
                f"{run}: trained with {key} {was.get(key)!r}, and here it is {mine!r}: its weights and states mean "
                "nothing to another; make it the same"
            )
    _require_same(run, before, features)
    return saved, before


def _require_same(run: Path, before: Features, features: Features) -> None:
    """Raise ConfigError naming the first feature that does not give what it gave to the run."""
    names = [[feature.name for feature in every.features] for every in (before, features)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{run}: its features are {', '.join(names[0])}, and here they are {', '.join(names[1])}: declare the same "
            "ones, in the same order"
        )
    for was, now in zip(before.features, features.features, strict=True):
        old, new = was.arrays(), now.arrays()
        grows = isinstance(was, Categorical) and isinstance(now, Categorical)
        if grows:
            new = {"ids": new["ids"][: len(old["ids"])]}
        same = type(was) is type(now) and old.keys() == new.keys()
        same = same and all(np.array_equal(old[key], new[key]) for key in old)
        settings = [
            {key: value for key, value in feature.to_dict().items() if not (grows and key == "full_codes")}
            for feature in (was, now)
        ]
        if not same or settings[0] != settings[1]:
            raise ConfigError(
                f"{run}: feature {now.name!r} was fitted otherwise than here, so its codes or numbers mean something "
                "else: append the new rows to the set that the run was trained on (`recsys prepare --append`), and "
                "train --on that"
            )


def _new_ids(before: Features, features: Features) -> dict[str, int]:
    """Return how many ids each vocabulary has that it had not."""
    pairs = zip(before.features, features.features, strict=True)
    grown = {
        now.name: len(now.ids) - len(was.ids)
        for was, now in pairs
        if isinstance(was, Categorical) and isinstance(now, Categorical)
    }
    return {name: count for name, count in grown.items() if count}


def _sentence(
    run: Path, done: dict[str, Any], config: ExperimentConfig, optimizer: Optimizer, new: dict[str, int]
) -> str:
    training = config.training
    factor = rate_factor(training, 0, optimizer.num_steps)
    shown = ", ".join(f"{name} {count:,}" for name, count in new.items())
    return (
        f"begins with {run}: tables, network and optimiser states after its {done['steps']:,} batches (epoch "
        f"{done['epoch']:.2f}). This training's own batches begin at 0 of {optimizer.num_steps:,}, with table_lr "
        f"{training.table_lr * factor:g} and dense_lr {training.dense_lr * factor:g} (schedule {training.schedule}, "
        f"warm-up {training.warmup_steps:,} batches). "
        + (f"New ids, which begin with first values: {shown}" if new else "No feature has new ids")
    )
