"""The training loop: one model, one prepared set, early stopping on validation."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel

from recsys.config import ExperimentConfig, TrainingConfig
from recsys.evaluation.metrics import evaluate, recalibrate
from recsys.models import ClickModel, build
from recsys.tables import fields_of, plan_of
from recsys.training.distributed import default_device, require_one_rank, shard_model
from recsys_pipelines.batches import Batch, Loader, Rows
from recsys_pipelines.features import Features
from recsys_tables.checkpoint import refresh, restore, snapshot
from recsys_tables.engine import EmbeddingEngine

Report = Callable[[dict[str, Any]], None]  # one evaluation: epoch, rows, train_loss, validation metrics
Progress = Callable[[str, int, int], None]  # (epoch's name, finished steps, of)


@dataclass
class Fitted:
    """A trained model at its best evaluation, and how it got there."""

    model: DistributedModelParallel
    best: dict[str, Any]  # validation metrics there
    history: list[dict[str, Any]] = field(default_factory=list)
    rows_trained: int = 0


class NonFiniteLoss(ValueError):
    """Training met a loss that is not a number."""


def make_model(config: ExperimentConfig, features: Features) -> ClickModel:
    """Build the model on the CPU, its tables on the meta device."""
    fields = fields_of(plan_of(config, features), features)
    engine = EmbeddingEngine(fields, device=torch.device("meta"))
    network = build(config.model, len(features.numeric_columns), len(fields), engine.embedding_dims[0])
    return ClickModel(engine, network)


def seed_everything(config: ExperimentConfig) -> None:
    """Make a run a function of its configuration on one machine."""
    torch.set_num_threads(config.training.num_threads)
    torch.manual_seed(config.training.seed)
    np.random.seed(config.training.seed)  # noqa: NPY002 (libraries below draw from the global state)
    random.seed(config.training.seed)


def fit(
    config: ExperimentConfig,
    train: Rows,
    validation: Rows,
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Fitted:
    """Train until the monitored validation metric stops improving, and return the model at its best evaluation.

    Needs a process group (`distributed.process_group`) of one rank. Raises NonFiniteLoss naming epoch and step.
    """
    require_one_rank()
    seed_everything(config)
    settings = config.training
    device = default_device()
    model, optimizer = shard_model(make_model(config, train.features), settings, device)
    kept = train.keep_negatives(settings.negative_rate, settings.seed)
    if len(kept) == 0:
        raise ValueError(
            f"training.negative_rate {settings.negative_rate} leaves no row to train on, for none is positive"
        )
    fitted = Fitted(model, {})
    best = snapshot(model)  # the first evaluation, and every better one, is copied over it
    model.train()
    loss_function = nn.BCEWithLogitsLoss(reduction="none")
    worse, total, rows = 0, 0.0, 0
    loader = Loader(
        train, settings.batch_size, settings.seed, subset=None if len(kept) == len(train) else kept
    )
    for step in _schedule(loader, settings):
        batch = to_device(step.batch, device)
        optimizer.zero_grad()
        logit, squared_norm = model(batch.dense, batch.ids)
        losses = loss_function(logit, batch.label)
        # a small last batch may hold no row of weight > 0
        weight = batch.weight / batch.weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
        loss = (losses * weight).sum()
        (loss + settings.table_decay / 2 * (squared_norm * weight).sum()).backward()
        optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise NonFiniteLoss(
                f"epoch {step.epoch}, step {step.number}: the training loss is {value}; lower "
                "training.table_lr or training.dense_lr, or look for extreme values in numeric features"
            )
        total, rows = total + value * batch.rows, rows + batch.rows
        progress(f"epoch {step.epoch + 1}", step.number, step.of)
        if not step.evaluate:
            continue
        predictions = predict(model, validation, config)
        model.train()
        metrics = evaluate(validation.label, predictions, groups=validation.user)
        fitted.rows_trained += rows
        fitted.history.append(
            {
                "epoch": step.epoch + step.number / step.of,
                "rows": fitted.rows_trained,
                "train_loss": total / rows,
            }
            | {f"validation_{name}": value for name, value in metrics.items()}
        )
        report(fitted.history[-1])
        total, rows = 0.0, 0
        if not fitted.best or settings.score(metrics) > settings.score(fitted.best):
            fitted.best, worse = metrics, 0
            refresh(best, model)
        else:
            worse += 1
        if worse >= settings.patience:
            break
    restore(model, best)
    return fitted


@dataclass(frozen=True)
class _Step:
    """Batch `number` (from 1) `of` an epoch, and whether an evaluation follows."""

    epoch: int
    number: int
    of: int
    batch: Batch
    evaluate: bool


def _schedule(loader: Loader, settings: TrainingConfig) -> Iterator[_Step]:
    """All steps of all epochs, with evaluations spread evenly and one at each epoch's end."""
    of, parts = loader.num_batches, settings.evaluations_per_epoch
    stops = {of * (part + 1) // parts for part in range(parts)}
    for epoch in range(settings.epochs):
        for number, batch in enumerate(loader.epoch(epoch), start=1):
            yield _Step(epoch, number, of, batch, number in stops)


@torch.no_grad()
def predict(model: nn.Module, rows: Rows, config: ExperimentConfig) -> np.ndarray:
    """Click probabilities float64 [n] of `rows`, in order, recalibrated for negative down-sampling."""
    model.eval()
    device = default_device()
    out = np.empty(len(rows))
    for start in range(0, len(rows), config.evaluation.batch_size):
        index = np.arange(start, min(start + config.evaluation.batch_size, len(rows)))
        batch = to_device(rows.batch(index), device)
        out[index] = torch.sigmoid(model(batch.dense, batch.ids)[0].double()).cpu().numpy()
    return recalibrate(out, config.training.negative_rate)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; nothing to do on the CPU."""
    if device.type == "cpu":
        return batch
    return replace(
        batch,
        dense=batch.dense.to(device, non_blocking=True),
        ids=batch.ids.to(device, non_blocking=True),
        label=batch.label.to(device, non_blocking=True),
        weight=batch.weight.to(device, non_blocking=True),
    )
