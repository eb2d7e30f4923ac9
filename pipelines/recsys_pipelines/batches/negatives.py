"""Negative sampling for implicit feedback, as part of the batch function.

A negative of row r is r itself with the features of its item taken from a *donor*, a row of the item that was drawn.
Draw j is a pure function of (seed, epoch, row id, j), so that restarts and other numbers of ranks repeat it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from recsys_cython_ext import IdTable, count_ids, lookup_salt, mix64
from recsys_pipelines.batches.loader import PADDING, Batch, Rows
from recsys_pipelines.shards import uniform

TRIES = 4  # draws of one negative, before it becomes the item after its row's own


class Items:
    """The I items of rows, values of the single-valued feature `feature`.

    Attributes:
        ids: Of the items, [I], rising.
        counts: How many rows each has, [I].
        donor: The first row of each, [I].
        of_row: The item of each row, int32 [n].

    Raises ValueError unless `feature` is a single-valued categorical feature.
    """

    def __init__(self, rows: Rows, feature: str) -> None:
        if feature not in [f.name for f in rows.features.categorical if not f.multivalued]:
            raise ValueError(f"an item is one id: {feature!r} is no single-valued categorical feature")
        ids = rows.ids_of(feature)
        self.ids, self.counts = count_ids(ids)
        self.of_row = IdTable(self.ids).codes(ids, -1)
        self.donor = np.empty(len(self.ids), np.int64)
        self.donor[self.of_row[::-1]] = np.arange(len(ids))[::-1]  # the last one written is the first row


def in_batch_log_q(items: Items, index: np.ndarray) -> np.ndarray:
    """Return the log of the share of impressions of each row's item: float32 [B], 0 for padding.

    A softmax over the items of a batch meets item i as often as it is shown; subtracting log q_i from its logit
    undoes that (Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations",
    RecSys 2019, eq. 3). Here q_i is counted over all rows, where theirs is estimated from a stream.
    """
    return _log_of(items.counts / len(items.of_row), items, index)


class InBatchNegatives:
    """Batches as they are, with the `log_q` of their items: the other rows of a batch are the negatives."""

    def __init__(self, rows: Rows, item_feature: str) -> None:
        self._rows = rows
        self.items = Items(rows, item_feature)

    def batch(self, index: np.ndarray, epoch: int) -> Batch:
        """Return the rows of `index` [B]."""
        log_q = in_batch_log_q(self.items, index)
        return replace(self._rows.batch(index), log_q=torch.from_numpy(log_q))


@dataclass(frozen=True)
class Expanded:
    """Rows [B, then B * num_negatives] of a larger batch: features of row index[b], those of the item of donors[b]."""

    index: np.ndarray
    donors: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    log_q: np.ndarray


class NegativeSampler:
    """Batches with `num_negatives` rows of label 0 for each row, whatever its label: leave others out by a subset.

    item_features: what describes the item, first the feature whose value it is. Item i is drawn with probability
    q_i = 1 / I (`uniform`) or proportional to counts_i ** alpha (`popularity`; 0.75 as in Mikolov et al., "Distributed
    representations of words and phrases", 2013). An item that is the row's own is drawn again, TRIES times in all,
    and then becomes the next one in the order of ids. log_q is log q_i for positives and negatives alike, without
    that exclusion. Other positives of a user are not excluded.

    Raises ValueError for an unknown feature, a first one that is not single-valued, fewer than two items, or
    num_negatives < 1.
    """

    def __init__(
        self,
        rows: Rows,
        item_features: Sequence[str],
        num_negatives: int,
        by: Literal["uniform", "popularity"] = "uniform",
        alpha: float = 0.75,
        seed: int = 0,
    ) -> None:
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be >= 1, got {num_negatives}")
        unknown = set(item_features) - {feature.name for feature in rows.features.features}
        if unknown or not item_features:
            raise ValueError(f"item features must be features of the rows, got {sorted(unknown) or 'none'}")
        self._rows, self._seed = rows, seed
        self.item_features, self.num_negatives = tuple(item_features), num_negatives
        self.items = Items(rows, item_features[0])
        if len(self.items.ids) < 2:
            raise ValueError(
                f"{item_features[0]!r} has {len(self.items.ids)} items: no other one can be drawn"
            )
        mass = self.items.counts ** (0.0 if by == "uniform" else alpha)
        self.q = mass / mass.sum()
        self._ends = np.cumsum(self.q)

    def expand(self, index: np.ndarray, epoch: int) -> Expanded:
        """Return rows `index` [B], then the negatives of the first, of the second, and so on; padding stays so."""
        items = self._draw_items(index, epoch).reshape(-1)
        repeated = np.repeat(index, self.num_negatives)
        rows = np.concatenate([index, repeated])
        real = rows != PADDING
        weight = np.where(real, self._rows.weight[np.where(real, rows, 0)], 0).astype(np.float32)
        label = np.zeros(len(rows), np.float32)
        label[: len(index)] = np.where(real[: len(index)], self._rows.loss_label[index], 0)
        negative_log_q = np.where(repeated == PADDING, 0, np.log(self.q[items])).astype(np.float32)
        return Expanded(
            index=rows,
            donors=np.concatenate([index, self.items.donor[items]]),
            label=label,
            weight=weight,
            log_q=np.concatenate([_log_of(self.q, self.items, index), negative_log_q]),
        )

    def batch(self, index: np.ndarray, epoch: int) -> Batch:
        """Return `expand` as a batch of B * (1 + num_negatives) rows."""
        expanded = self.expand(index, epoch)
        return replace(
            self._rows.batch(expanded.index, expanded.donors, self.item_features),
            label=torch.from_numpy(expanded.label),
            weight=torch.from_numpy(expanded.weight),
            log_q=torch.from_numpy(expanded.log_q),
        )

    def _draw_items(self, index: np.ndarray, epoch: int) -> np.ndarray:
        """Draw items [B, num_negatives], never that of the row itself."""
        positive, row_id = self.items.of_row[index], self._rows.row_id[index]
        items = np.empty((len(index), self.num_negatives), np.int64)
        for j in range(self.num_negatives):
            drawn = items[:, j]
            again = np.arange(len(index))
            for attempt in range(TRIES):
                drawn[again] = self._draw(row_id[again], epoch, j * TRIES + attempt)
                again = again[drawn[again] == positive[again]]
            drawn[again] = (drawn[again] + 1) % len(self.q)
        return items

    def _draw(self, row_id: np.ndarray, epoch: int, number: int) -> np.ndarray:
        key = mix64(np.array([epoch], np.int64) ^ lookup_salt("negative items", number))
        u = uniform(mix64(row_id ^ key), self._seed, "negative items")
        return np.minimum(np.searchsorted(self._ends, u, side="right"), len(self.q) - 1)


def _log_of(q: np.ndarray, items: Items, index: np.ndarray) -> np.ndarray:
    """Return the log of the q [I] of each row's item: float32 [B], 0 for padding."""
    return np.where(index == PADDING, 0, np.log(q[items.of_row[index]])).astype(np.float32)
