"""The Deep Interest Network (DIN) sums a user's history by attention to the item that is shown."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from recsys.config.models import DINConfig
from recsys.models.dice import Dice
from recsys.models.layers import concatenated, mlp
from recsys_tables.engine.bags import sum_bags


class ActivationUnit(nn.Module):
    """Σ_j a(h_j, t) · h_j over a sample's history (Zhou et al., KDD 2018, eq. 3).

    a = MLP(h, t, h - t, h ⊙ t), not normalised: the sum keeps how strong the interest is. Every id of the
    history is a row of one matrix [L, 4D], so there is no padding to mask; an empty history sums to 0.
    """

    def __init__(self, embedding_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.mlp = mlp(4 * embedding_dim, hidden, activation=Dice)
        self.output = nn.Linear(hidden[-1], 1)

    def forward(self, target: Tensor, history: JaggedTensor) -> Tensor:
        """Map targets [B, D], and histories of values [L, D] and lengths [B], to [B, D]."""
        values, lengths = history.values(), history.lengths()
        targets = target.repeat_interleave(
            lengths, dim=0, output_size=len(values)
        )  # one for each of its history
        return sum_bags(self._attended(values, targets), lengths)

    def padded(self, target: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        """Map targets [B, D], and histories [B, L, D] of which the first `lengths` [B] count, to [B, D]."""
        most = values.shape[1]
        targets = target.unsqueeze(1).expand(-1, most, -1)
        attended = self._attended(values.flatten(0, 1), targets.flatten(0, 1)).view(values.shape)
        mask = torch.arange(most, device=lengths.device) < lengths.unsqueeze(1)
        return (attended * mask.unsqueeze(2)).sum(dim=1)

    def _attended(self, values: Tensor, targets: Tensor) -> Tensor:
        """Return a(h, t) · h of rows h and t, both [L, D]."""
        x = torch.cat([values, targets, values - targets, values * targets], dim=1)
        return self.output(self.mlp(x)) * values


class DIN(nn.Module):
    """logit = MLP with Dice over x, the fields' vectors, and each history summed by its attention to its target."""

    def __init__(self, config: DINConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.interests = config.interests
        self.targets = [fields.index(interest.target) for interest in self.interests]
        self.units = nn.ModuleList(
            ActivationUnit(embedding_dim, config.attention_hidden) for _ in self.interests
        )
        inputs = num_dense + (len(fields) + len(self.interests)) * embedding_dim
        self.mlp = mlp(inputs, config.hidden, config.dropout, activation=Dice)
        self.output = nn.Linear(config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor, *histories: JaggedTensor) -> Tensor:
        """Map [B, n], [B, F, D] and a sequence for each interest to logits [B]. Raises ValueError when widths differ."""
        for interest, history in zip(self.interests, histories, strict=True):
            if history.values().shape[1] != vectors.shape[2]:
                raise ValueError(
                    f"din: the vectors of history {interest.history!r} are {history.values().shape[1]} wide, "
                    f"those of its target {interest.target!r} {vectors.shape[2]}; give both one width"
                )
        summed = [
            unit(vectors[:, target], history)
            for unit, target, history in zip(self.units, self.targets, histories, strict=True)
        ]
        return self._logit(dense, vectors, summed)

    def padded(self, dense: Tensor, vectors: Tensor, *histories: tuple[Tensor, Tensor]) -> Tensor:
        """Map the same to logits [B], each history as padded values [B, L, D] and lengths [B], as a server has them."""
        units = cast(Iterable[ActivationUnit], self.units)
        summed = [
            unit.padded(vectors[:, target], *history)
            for unit, target, history in zip(units, self.targets, histories, strict=True)
        ]
        return self._logit(dense, vectors, summed)

    def _logit(self, dense: Tensor, vectors: Tensor, summed: list[Tensor]) -> Tensor:
        x = concatenated(dense, torch.cat([vectors, torch.stack(summed, dim=1)], dim=1))
        return self.output(self.mlp(x)).squeeze(1)
