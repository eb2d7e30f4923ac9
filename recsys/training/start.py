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
from recsys.training.run import Run
from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT
from recsys_pipelines.features import Categorical, Features
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.pieces import load_start


def trained_by(config: ExperimentConfig) -> dict[str, str]:
    """Return what the optimisers' states of a checkpoint are of; it is kept there as `trained_by`."""
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
    report: Callable[[str], None],
) -> None:
    """Fill model and optimiser with what `training.start` names, if it names anything. Every rank calls it.

    Args:
        config: The experiment that is trained.
        features: Those of the rows that are trained on.
        model: The sharded model, with its first values.
        optimizer: Its optimiser, before the first step.
        report: Is told, on rank 0, what the training begins with.

    Raises:
        ValueError: The run or file does not fit; the message names it and a setting, a feature, a scheme, a shape or
            the hash version. The model is then as before, on every rank.
    """
    start = config.training.start
    if start is None:
        return
    if isinstance(start, Path):
        return load_start(start, model)
    run, saved = agree(lambda: _open_fitting(start.run, config, features))
    saved.load_into(model)
    state = saved.about["state"]
    optimizer.inherit(saved.extra(), state["steps"])
    if dist.get_rank() == 0:
        report(_sentence(start.run, state, config, optimizer, _new_ids(run.features(), features)))


def _open_fitting(folder: Path, config: ExperimentConfig, features: Features) -> tuple[Run, Checkpoint]:
    """Return a run and its checkpoint, once they are found to fit."""
    run = Run.open(folder, warn=lambda _: None)  # the checkpoint has checksums, whatever else has none
    saved = run.checkpoint()
    earlier: Any = saved.about.get("trained_by")
    if earlier is None:
        raise ConfigError(
            f"{folder}: another version of this program trained it, and kept no states of optimisers: train it again"
        )
    for key, value in trained_by(config).items():
        if earlier.get(key) != value:
            raise ConfigError(
                f"{folder}: trained with {key} {earlier.get(key)!r}, and here it is {value!r}: its weights and states "
                "mean nothing to another; make it the same"
            )
    _require_same(folder, run.features(), features)
    return run, saved


def _require_same(folder: Path, before: Features, features: Features) -> None:
    """Raise ConfigError naming the first feature that does not give what it gave to the run."""
    names = [[feature.name for feature in every.features] for every in (before, features)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{folder}: its features are {', '.join(names[0])}, and here they are {', '.join(names[1])}: declare the "
            "same ones, in the same order"
        )
    for old, new in zip(before.features, features.features, strict=True):
        old_arrays, new_arrays = old.arrays(), new.arrays()
        grows = (
            isinstance(old, Categorical) and isinstance(new, Categorical) and old.form == new.form == EXACT
        )
        if grows and old_arrays and new_arrays:  # like another feature it has none
            new_arrays = {"ids": new_arrays["ids"][: len(old_arrays["ids"])]}
        same = type(old) is type(new) and old_arrays.keys() == new_arrays.keys()
        same = same and all(np.array_equal(old_arrays[key], new_arrays[key]) for key in old_arrays)
        settings = [
            {key: value for key, value in feature.to_dict().items() if not (grows and key == "full_codes")}
            for feature in (old, new)
        ]
        if not same or settings[0] != settings[1]:
            fingerprints = any(isinstance(f, Categorical) and f.form == FINGERPRINT for f in (old, new))
            cure = (
                "no vocabulary of `form: fingerprint` grows, so train --on the set that the run was trained on"
                if fingerprints
                else "append the new rows to the set that the run was trained on (`recsys prepare --append`), and train "
                "--on that"
            )
            raise ConfigError(
                f"{folder}: feature {new.name!r} was fitted otherwise than here, so its codes or numbers mean something "
                f"else: {cure}"
            )


def _new_ids(before: Features, features: Features) -> dict[str, int]:
    """Return how many ids each vocabulary has that it had not."""
    grown = {
        new.name: len(new.vocabulary) - len(old.vocabulary)
        for old, new in zip(before.features, features.features, strict=True)
        if isinstance(old, Categorical) and isinstance(new, Categorical)
    }
    return {name: count for name, count in grown.items() if count}


def _sentence(
    folder: Path, state: dict[str, Any], config: ExperimentConfig, optimizer: Optimizer, new: dict[str, int]
) -> str:
    training = config.training
    factor = rate_factor(training, 0, optimizer.num_steps)
    counts = ", ".join(f"{name} {count:,}" for name, count in new.items())
    return (
        f"begins with {folder}: tables, network and optimiser states after its {state['steps']:,} batches (epoch "
        f"{state['epoch']:.2f}). This training's own batches begin at 0 of {optimizer.num_steps:,}, with table_lr "
        f"{training.table_lr * factor:g} and dense_lr {training.dense_lr * factor:g} (schedule {training.schedule}, "
        f"warm-up {training.warmup_steps:,} batches). "
        + (f"New ids, which begin with first values: {counts}" if new else "No feature has new ids")
    )
