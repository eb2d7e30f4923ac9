"""Predictions of many rows, shared among the ranks."""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from recsys.config import ExperimentConfig
from recsys.evaluation.metrics import recalibrate
from recsys.training.distributed import default_device
from recsys.training.feed import agreed_bags, click_batch
from recsys_pipelines.batches import PADDING, Rows
from recsys_tables.engine import engine_of


@torch.no_grad()
def predict(model: nn.Module, rows: Rows, config: ExperimentConfig) -> np.ndarray:
    """Click probabilities float64 [n] of `rows`, in order, recalibrated for negative down-sampling.

    Every rank calls it, scores its share of each batch of `evaluation.batch_size` rows, and gets all of them.
    """
    model.eval()
    device, engine = default_device(), engine_of(model)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    out = np.zeros(len(rows))
    share = -(-config.evaluation.batch_size // ranks)
    for start in range(0, len(rows), share * ranks):
        index = start + share * rank + np.arange(share)
        if ranks == 1:
            index = index[index < len(rows)]
        index[index >= len(rows)] = PADDING  # ranks look up equally many bags
        batch = agreed_bags(click_batch(engine, rows.batch(index))).to(device)
        logit = model(batch)[0][index != PADDING]
        out[index[index != PADDING]] = torch.sigmoid(logit.double()).cpu().numpy()
    if ranks > 1:
        dist.all_reduce(torch.from_numpy(out))
    return recalibrate(out, config.training.negative_rate)
