"""DeepFM and DCN-V2 as a user of TorchRec writes them, for the rivals of `training.py`; no code of `recsys` is in them."""

import torch
from torch import Tensor, nn


def plain_network(name: str, inputs: int, hidden: tuple[int, ...] = (400, 400)) -> nn.Module:
    """Return (dense [B, n], vectors [B, F, D]) -> logit [B] for `inputs` = n + F·D."""
    return {"deepfm": DeepFM, "dcn_v2": DCNv2}[name](inputs, hidden)


def mlp(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Stack linear layers and ReLUs."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


class DeepFM(nn.Module):
    """A linear term, pairs of fields, and an MLP."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 1)
        self.mlp = mlp(inputs, hidden)
        self.output = nn.Linear(hidden[-1], 1, bias=False)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B]."""
        x = torch.cat([dense, vectors.flatten(1)], dim=1)
        pairs = 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)
        return (self.linear(x) + self.output(self.mlp(x))).squeeze(1) + pairs


class DCNv2(nn.Module):
    """Three cross layers beside an MLP."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(inputs, inputs) for _ in range(3))
        self.mlp = mlp(inputs, hidden)
        self.output = nn.Linear(inputs + hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B]."""
        start = crossed = torch.cat([dense, vectors.flatten(1)], dim=1)
        for cross in self.crosses:
            crossed = start * cross(crossed) + crossed
        return self.output(torch.cat([crossed, self.mlp(start)], dim=1)).squeeze(1)
