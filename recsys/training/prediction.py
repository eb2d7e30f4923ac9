"""Ranks share the work of predicting many rows."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.config import ExperimentConfig
from recsys.evaluation.metrics import recalibrate
from recsys.training.feed import agreed, click_batch
from recsys_pipelines.batches.loader import Rows
from recsys_tables.distributed.device import default_device
from recsys_tables.engine.engine import engine_of


def predict(model: nn.Module, rows: Rows, config: ExperimentConfig) -> np.ndarray:
    """Return click probabilities of `rows`, float64 [n], in order, recalibrated for negative down-sampling.

    Every rank calls it, scores its share of each batch of `evaluation.batch_size` rows, and gets all of them.
    """
    return recalibrate(_answers(model, rows, config, torch.sigmoid), config.training.negative_rate)


def predict_logits(model: nn.Module, rows: Rows, config: ExperimentConfig) -> np.ndarray:
    """Return logits of the click probabilities that `predict` returns, float64 [n].

    With q = p / (p + (1 - p) / rate) as `recalibrate` has it, logit(q) = logit(p) + ln(rate).
    """
    return _answers(model, rows, config, lambda logit: logit) + math.log(config.training.negative_rate)


@torch.no_grad()
def _answers(
    model: nn.Module, rows: Rows, config: ExperimentConfig, answer: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Return what `answer` makes of the logits of `rows`, float64 [n], as `predict` says."""
    model.eval()
    device, engine = default_device(), engine_of(model)
    ranks, rank, n = dist.get_world_size(), dist.get_rank(), len(rows)
    out = np.zeros(n)
    share = -(-config.evaluation.batch_size // ranks)
    parts = [
        np.arange(min(first, n), min(first + share, n))
        for first in range(share * rank, n + share * rank, share * ranks)
    ]
    batches = (click_batch(engine, rows.batch(part)) for part in parts)
    for part, batch in zip(parts, agreed(batches, engine), strict=True):
        out[part] = answer(model(batch.to(device))[0].double()).cpu().numpy()
    if ranks > 1:
        dist.all_reduce(torch.from_numpy(out))
    return out
