"""What `training.table_decay` shrinks is told by one of two regularisers of the vectors that a batch looks up.

Both answer with a number for each sample, whose mean over the batch is the term; its gradient reaches the tables'
fused optimiser through the looked-up vectors, so rows that the batch does not touch stay as they are.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recsys.config.models import DINConfig, ModelConfig, targets_of
from recsys_cython_ext import count_ids
from recsys_tables.engine.bags import sum_bags
from recsys_tables.engine.batch_rows import BatchRows
from recsys_tables.engine.embeddings import Embeddings
from recsys_tables.field import Field


class PerImpression(nn.Module):
    """Squared norm of each sample's vectors, pooled ones and those of its histories.

    A row is shrunk as often as it is looked up, in proportion to the gradient of its loss.
    """

    def forward(self, embeddings: Embeddings, rows: BatchRows) -> Tensor:
        """Map the vectors of a batch, and the rows that they were looked up by, to [B]."""
        norms = embeddings.values().square().sum(dim=1)
        for history in embeddings.sequences.values():
            norms = norms + sum_bags(history.values().square().sum(dim=1), history.lengths())
        return norms


class OncePerId(nn.Module):
    """Mini-batch aware: Σ over the distinct ids j of the batch of |w_j|² / n_j (Zhou et al., KDD 2018, §5.1).

    n_j is how often j occurs in training. A row is shrunk once a batch, however often the batch holds it, and an
    epoch shrinks a rare one as much as a frequent one. Every vector of j gets the weight 1 / (c_j n_j), c_j its
    count in the batch. All samples get the sum, so that their mean is the sum, whatever their weights.

    features: of the engine, in its order.
    groups: features whose ids read the same rows, e.g. a target and its histories; each must be looked up one by
        one, for a pooled bag no longer shows its ids: such features are left out, and not shrunk.
    counts: for each group the ids of training, int64 [U] rising, and how often each occurs, int64 [U].
    """

    def __init__(
        self,
        features: Sequence[str],
        groups: Sequence[Sequence[str]],
        counts: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.groups = [tuple(group) for group in groups]
        for place, (ids, occurrences) in enumerate(counts):
            self.register_buffer(f"ids_{place}", ids, persistent=False)
            self.register_buffer(f"counts_{place}", occurrences, persistent=False)

    def forward(self, embeddings: Embeddings, rows: BatchRows) -> Tensor:
        """Map the vectors of a batch, and the rows that they were looked up by, to [B]."""
        ids = {name: bag.ids for name, bag in zip(self.features, rows.bags, strict=True)}
        total = embeddings.values().new_zeros(())
        for place, group in enumerate(self.groups):
            looked_up = torch.cat([ids[feature] for feature in group])
            vectors = torch.cat(
                [
                    embeddings.sequences[feature].values()
                    if feature in embeddings.sequences
                    else embeddings[feature]
                    for feature in group
                ]
            )
            distinct, where, in_batch = looked_up.unique(return_inverse=True, return_counts=True)
            known: Tensor = self.get_buffer(f"ids_{place}")
            in_training = self.get_buffer(f"counts_{place}")[torch.searchsorted(known, distinct)]
            weight = 1 / (in_batch * in_training).to(vectors.dtype)
            total = total + (weight[where] * vectors.square().sum(dim=1)).sum()
        return total.expand(len(rows.bags[0].lengths))


def table_decay(
    model: ModelConfig, fields: Sequence[Field], ids_of: Callable[[str], np.ndarray]
) -> nn.Module:
    """Return what `model` declares, a history in one group with its target.

    ids_of: all ids [L] of a feature in training.
    """
    if not isinstance(model, DINConfig) or model.decay_by == "impression":
        return PerImpression()
    targets = targets_of(model)
    groups: dict[str, list[str]] = {}
    for field in fields:
        if not field.multivalued or field.pooling == "none":
            groups.setdefault(targets.get(field.feature, field.feature), []).append(field.feature)
    counts = []
    for group in groups.values():
        ids, occurrences = count_ids(np.concatenate([ids_of(name).astype(np.int64) for name in group]))
        counts.append((torch.from_numpy(ids), torch.from_numpy(occurrences)))
    return OncePerId([field.feature for field in fields], list(groups.values()), counts)
