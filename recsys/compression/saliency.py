"""The saliency of a row says how the training loss would rise without it, to second order."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from recsys.compression.space import Learned
from recsys.models import ClickModel
from recsys.models.click import ClickBatch
from recsys.training.feed import click_batch
from recsys_cython_ext.progress import Progress, no_progress
from recsys_cython_ext.vocabulary import UNKNOWN_CODE
from recsys_pipelines.batches.loader import Rows
from recsys_tables.engine.bags import Bag
from recsys_tables.engine.embeddings import Embeddings
from recsys_tables.field import Field


def saliency(
    model: ClickModel, learned: Learned, rows: Rows, batch_size: int, progress: Progress = no_progress
) -> dict[str, np.ndarray]:
    """Compute ½ Σ (g · (e - e₀))² of each row e, by feature with a table of its own: float64 [V].

    e₀ is the field's default, g the gradient of an impression's log loss by the id's vector, and the sum is over the
    impressions of `rows` that hold the id: LeCun et al. 1990 (optimal brain damage) with the empirical Fisher information
    of whole rows in place of the diagonal Hessian. Twice this is Wald's statistic against the default. So it grows with
    the impressions of an id that matters, stays small for an id that noise has moved, and is comparable over fields.

    `model` has full tables that hold `learned.weights`, and is in evaluation mode.
    """
    sums = {name: np.zeros(len(weights)) for name, weights in learned.weights.items()}
    changes = {
        name: torch.from_numpy(values - learned.default[name]) for name, values in learned.weights.items()
    }
    for first in range(0, len(rows), batch_size):
        part = np.arange(first, min(first + batch_size, len(rows)))
        batch = click_batch(model.engine, rows.batch(part))
        for field, bag, gradient in _gradients(model, batch):
            table = _owner(field)
            squared = (gradient * changes[table][bag.ids]).sum(dim=1).double().square()
            sums[table] += np.bincount(bag.ids.numpy(), squared.numpy(), minlength=len(sums[table]))
        progress("rank rows", first + len(part), len(rows))
    return {name: values / 2 for name, values in sums.items()}


def importance(
    model: ClickModel, rows: Rows, batch_size: int, progress: Progress = no_progress
) -> dict[str, np.ndarray]:
    """Compute Σ |g|² of each row, by feature with a table of its own: float64 [V], g as in `saliency`.

    It is the trace of the empirical Fisher information of the row: what an error of its vector costs.
    `model` has full tables, and is in evaluation mode.
    """
    sums = {
        field.feature: np.zeros(field.scheme.num_ids or 0)
        for field in model.engine.fields
        if field.scheme.owner is field.scheme
    }
    for first in range(0, len(rows), batch_size):
        part = np.arange(first, min(first + batch_size, len(rows)))
        batch = click_batch(model.engine, rows.batch(part))
        for field, bag, gradient in _gradients(model, batch):
            squared = gradient.double().square().sum(dim=1)
            table = sums[_owner(field)]
            table += np.bincount(bag.ids.numpy(), squared.numpy(), minlength=len(table))
        progress("importance", first + len(part), len(rows))
    return sums


def with_defaults(learned: Learned, rows: Rows, min_count: int) -> Learned:
    """Leave out the ids that occur fewer than `min_count` times in the training `rows`, and add defaults.

    An id that occurs once or twice and happened to be clicked looks important. To choose ids so would tell the labels
    of training to the tables that are trained next. The default is the row of unknown ids where training has some, else the
    mean vector of the field's impressions, which is what such a row learns first; a history that reads the field's rows
    does not count.
    """
    default, score = {}, {}
    for name, weights in learned.weights.items():
        counts = np.bincount(rows.ids_of(name), minlength=len(weights))
        mean = (counts @ weights.astype(np.float64) / max(1, counts.sum())).astype(np.float32)
        default[name] = weights[UNKNOWN_CODE] if counts[UNKNOWN_CODE] else mean
        score[name] = np.where(counts >= min_count, learned.score[name], 0.0)
    return replace(learned, default=default, score=score)


def ranked_by_saliency(learned: Learned, by_feature: dict[str, np.ndarray]) -> Learned:
    """Return what the learner keeps, with the `saliency` of each feature's rows as scores."""
    score = {name: np.where(learned.score[name] > 0, by_feature[name], 0.0) for name in learned.score}
    return replace(learned, score=score)


def _gradients(model: ClickModel, batch: ClickBatch) -> Iterator[tuple[Field, Bag, Tensor]]:
    """Yield each field, its bags, and the gradient of each sample's own loss by the vector of each of its ids, [L, D]."""
    with torch.no_grad():
        looked_up = model.engine.look_up(batch.rows)
    pooled = looked_up.concatenated.requires_grad_()
    unpooled = {name: vectors.values().requires_grad_() for name, vectors in looked_up.sequences.items()}
    sequences = {
        name: JaggedTensor(values, lengths=looked_up.sequences[name].lengths())
        for name, values in unpooled.items()
    }
    embeddings = Embeddings(looked_up.dims, pooled, sequences)
    logit = model.network(batch.dense, embeddings.stacked(), *(sequences[name] for name in model.histories))
    loss = nn.functional.binary_cross_entropy_with_logits(logit, batch.label, batch.weight, reduction="sum")
    gradients = torch.autograd.grad(loss, [pooled, *unpooled.values()])
    of_pooled = Embeddings(looked_up.dims, gradients[0], {})
    of_unpooled = dict(zip(unpooled, gradients[1:], strict=True))
    for field, bag in zip(model.engine.fields, batch.rows.bags, strict=True):
        if field.pooling == "none":
            gradient = of_unpooled[field.feature]
        else:
            gradient = of_pooled[field.feature]
            if field.averages:
                gradient = gradient / bag.divisor()[:, None]
            gradient = gradient.repeat_interleave(bag.lengths, dim=0)
        yield field, bag, gradient if bag.weights is None else gradient * bag.weights[:, None]


def _owner(field: Field) -> str:
    """Return the feature whose table the field reads."""
    return field.scheme.owner.feature
