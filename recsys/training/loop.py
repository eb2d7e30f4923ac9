"""There is one training loop for a notebook, a machine and a cluster. It ends with the model of its best evaluation."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel

from recsys.config import ExperimentConfig
from recsys.config.models import targets_of
from recsys.evaluation.metrics import evaluate
from recsys.models import ClickModel, build
from recsys.models.click import ClickBatch, InBfloat16
from recsys.models.decay import OncePerId, table_decay
from recsys.planning import fields_of, plan_of
from recsys.training.clock import StepClock, stragglers
from recsys.training.distributed import gathered, keep_memory, on_rank_0, peak_memory, shard_model
from recsys.training.feed import Feed
from recsys.training.labels import check_measured, check_training, soft_labelled
from recsys.training.optimizers import Optimizer
from recsys.training.pipeline import Pipeline
from recsys.training.prediction import predict
from recsys.training.start import begin
from recsys.training.state import TrainingState
from recsys.training.store import Store
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.batches.loader import PADDING, Rows
from recsys_pipelines.features import Features
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.device import default_device
from recsys_tables.engine.engine import EmbeddingEngine

# after which the loader's thread hands the interpreter back, of Python's 5 ms: 2 % of a step
SWITCH_SECONDS = 3e-4

# of one evaluation, on every rank: epoch, rows, losses, metrics, rates
Report = Callable[[dict[str, Any]], None]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Watch:
    """Callbacks of a training, which do nothing unless given; they are called on rank 0 only, but for `report`."""

    report: Report = lambda _: None
    progress: Progress = no_progress
    warn: Warn = lambda _: None
    step: Callable[[], None] = lambda: None  # after every batch: a profiler's


@dataclass
class Fitted:
    """A trained model and how it got there; with a store, the model is as it was at its best evaluation."""

    model: DistributedModelParallel
    optimizer: Optimizer
    state: TrainingState
    rows: int  # trained on by this call: of a run that went on, those of before are not among them

    @property
    def best(self) -> dict[str, Any]:
        """Return the validation metrics of the best evaluation."""
        return self.state.best


class NonFiniteLoss(ValueError):
    """Training met a loss that is not a number."""


def make_model(
    config: ExperimentConfig,
    features: Features,
    train: Rows | None = None,
    device: str = "meta",
) -> ClickModel:
    """Build the model on the CPU, its tables on `device`; to be trained, it needs the rows of training."""
    histories = targets_of(config.model)
    fields = fields_of(plan_of(config, features), features, histories)
    engine = EmbeddingEngine(fields, torch.device(device), config.tables.precision)
    pooled = [field.feature for field in fields if field.pooling != "none"]
    network = build(config.model, len(features.numeric_columns), pooled, engine.embedding_dims[0])
    if config.training.precision == "bf16":
        network = InBfloat16(network)
    decay = None
    if train is not None and config.training.table_decay:
        decay = table_decay(config.model, fields, train.ids_of)
    return ClickModel(engine, network, list(histories), decay)


def restored(config: ExperimentConfig, features: Features, saved: Checkpoint) -> DistributedModelParallel:
    """Return the sharded model of an experiment as it was saved. Every rank of a process group calls it."""
    seed_everything(config)
    model = shard_model(make_model(config, features), config, default_device())
    saved.load_into(model)
    return model


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
    store: Store | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Train until the monitored validation metric stops improving.

    Needs a process group (`distributed.process_group`); every rank calls it. With a `store` it goes on from the newest
    checkpoint there, and a run that was interrupted ends with the same weights, on as many ranks, as one that was not;
    without, the model stays as the last batch left it. What steps free stays with the process (`distributed.keep_memory`).

    Raises NonFiniteLoss naming epoch and batch, OneClass for labels that cannot be learnt from or monitored, ValueError
    as `soft_labelled`, `Feed`, `shard_model`, `Store.resume` and `begin` do.
    """
    seed_everything(config)
    keep_memory()
    return _Training(config, train, validation, store, watch or Watch()).run()


class _Training:
    def __init__(
        self, config: ExperimentConfig, train: Rows, validation: Rows, store: Store | None, watch: Watch
    ) -> None:
        train = agree(lambda: soft_labelled(train, config))
        self._config, self._settings = config, config.training
        self._train, self._validation = train, validation
        self._store = store
        self._watch = watch
        self._device = default_device()
        click_model = make_model(config, train.features, train)
        lists = [feature.name for feature in train.features.categorical if feature.multivalued]
        lengths = {name: len(train.ids_of(name)) / max(1, len(train)) for name in lists}
        self._model = shard_model(click_model, config, self._device, lengths)
        settings = self._settings
        if dist.get_world_size() > 1 and settings.table_decay and isinstance(click_model.decay, OncePerId):
            raise ValueError(
                "model.decay_by: id counts the ids of a whole batch, of which a worker sees a part: take one worker, or "
                "decay_by: impression"
            )
        trained_rows = train.keep_negatives(settings.negative_rate, settings.seed)
        if len(trained_rows) == 0:
            raise ValueError(
                f"training.negative_rate {settings.negative_rate} leaves no row to train on, for none is positive"
            )
        check_training(len(train), int(np.count_nonzero(train.label)))
        if settings.monitor == "auc":
            positives = int(np.count_nonzero(validation.label))
            check_measured("validation", len(validation), positives, "training.monitor: auc")
        self._rows = len(trained_rows)
        subset = None if len(trained_rows) == len(train) else trained_rows
        self._feed = Feed(train, click_model.engine, settings.batch_size, settings.seed, subset)
        self._optimizer = Optimizer(self._model, settings, settings.epochs * self._feed.num_batches)
        self._clock = StepClock(click_model)
        self._state = TrainingState()

    def run(self) -> Fitted:
        """Train to the end."""
        if self._store is not None:
            self._state = self._store.resume(self._model, self._optimizer)
        if self._state.steps == 0 and not self._state.history:
            begin(self._config, self._train.features, self._model, self._optimizer, self._watch.warn)
            if self._settings.start is not None:  # which may be the best of all
                self._evaluate()
                self._save()
        before = self._state.rows
        self._model.train()
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            while not self._finished:
                self._epoch()
        finally:
            sys.setswitchinterval(interval)
            self._clock.remove()
        if self._store is not None:
            self._store.load_best(self._model, self._optimizer, self._state)
        return Fitted(self._model, self._optimizer, self._state, self._state.rows - before)

    @property
    def _finished(self) -> bool:
        return self._state.worse >= self._settings.patience or self._state.epoch >= self._settings.epochs

    def _epoch(self) -> None:
        """Train from the state's batch to the end of its epoch, or until training is finished."""
        state, of = self._state, self._feed.num_batches
        batches = self._feed.epoch(state.epoch, state.step, self._clock.loaded)
        parts = self._settings.evaluations_per_epoch
        for stop in sorted({of * (part + 1) // parts for part in range(parts)} - set(range(state.step + 1))):
            self._train_until(stop, islice(batches, stop - state.step))
            self._evaluate()
            self._save()
            if self._finished:
                return

    def _train_until(self, stop: int, batches: Iterator[ClickBatch]) -> None:
        """Train on `batches`, up to number `stop` of the epoch."""
        state, settings, of = self._state, self._settings, self._feed.num_batches
        every = self._config.job.checkpoint.every_steps
        pipeline = Pipeline(
            self._model, self._optimizer, self._device, settings.table_decay, self._clock, self._nonfinite
        )
        began, first = time.perf_counter(), state.step
        try:
            while state.step < stop:
                self._seed_step()
                pipeline.progress(batches)
                state.count(pipeline.loss, self._rows_of(state.step))
                self._watch.step()
                rate = (state.step - first) * settings.batch_size / (time.perf_counter() - began)
                self._watch.progress(f"epoch {state.epoch + 1}", state.step, of, f"{rate:,.0f} samples/s")
                if every is not None and state.steps % every == 0 and state.step < stop:
                    self._save()
        except BaseException:
            with suppress(AssertionError):  # of a pipeline that had not begun; the error is the other one
                pipeline.detach()
            raise
        pipeline.detach()

    def _evaluate(self) -> None:
        """Measure on validation, tell everybody, and move on to the next epoch where this one is done."""
        state, of = self._state, self._feed.num_batches
        predictions = predict(self._model, self._validation, self._config)
        self._model.train()
        metrics = on_rank_0(
            lambda: evaluate(self._validation.label, predictions, groups=self._validation.user)
        )
        state.evaluated(metrics, self._settings, of)
        self._watch.report(state.history[-1] | self._measured())
        if state.step == of:
            state.epoch, state.step = state.epoch + 1, 0

    def _measured(self) -> dict[str, float]:
        """Return shares of the time of the steps since the last evaluation, and memory; warn of slow ranks."""
        seconds = self._clock.read()
        by_rank = gathered(seconds | {"memory": peak_memory(self._device)})
        slow = stragglers([numbers["busy"] for numbers in by_rank], self._config.job.straggler_ratio)
        for rank, times in slow.items():
            self._watch.warn(
                f"rank {rank} is slow: {by_rank[rank]['busy']:.1f} s of its own work since the last evaluation, "
                f"{times:.1f} times the median of all ranks, which wait for it"
            )
        total = seconds["tables"] + seconds["dense"] + seconds["loading"] or 1.0  # before the first batch
        shares = {f"share_{part}": seconds[part] / total for part in ("tables", "dense", "loading")}
        return shares | {f"memory_rank_{rank}": numbers["memory"] for rank, numbers in enumerate(by_rank)}

    def _save(self) -> None:
        if self._store is not None:
            self._store.save(self._model, self._optimizer, self._state)

    def _seed_step(self) -> None:
        """Seed the random numbers of the state's step on this rank, so that they need not be saved.

        `torch.manual_seed` takes a millisecond, to write down for devices that there may be later who called it.
        """
        key = (self._settings.seed, self._state.epoch, self._state.step, dist.get_rank())
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _rows_of(self, step: int) -> int:
        """Count the rows of a batch, over all ranks."""
        return min(self._settings.batch_size, self._rows - step * self._settings.batch_size)

    def _nonfinite(self, loss: float) -> None:
        """Stop with the batch written out, or leave it out and count it."""
        state = self._state
        where = f"epoch {state.epoch}, batch {state.step}"
        if self._settings.on_nonfinite == "skip":
            state.skipped += 1
            self._watch.warn(f"{where}: left out, for its loss is {loss}")
            return
        advice = (
            "lower training.table_lr or training.dense_lr, or look for extreme values in numeric features"
        )
        if self._store is not None:
            rows = self._feed.positions(state.epoch, state.step)
            file = self._store.root.parent / f"nonfinite-rank-{dist.get_rank()}.parquet"
            pq.write_table(self._train.table.take(rows[rows != PADDING]), file)
            advice += f"; its rows are in {file}"
        raise NonFiniteLoss(f"{where}: the training loss is {loss}; {advice}")
