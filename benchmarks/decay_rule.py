"""What prunes OptEmbed's rows: dense Adam + L2 on the whole table, or a fused optimiser and decay in sweeps.

python benchmarks/decay_rule.py [--steps 600] [--seeds 2]

One field of 3,000 ids by Zipf's law, of which half say nothing, popular or not; clicks by the ids' own effects; one pass
over the log. Every arm trains the same supernet (alpha, the threshold's rate, the network's optimiser), and only what
moves the table differs. Dense Adam + L2 is the rule of the paper's code: every row moves in every step, those that the
batch does not look up by nothing but the L2 term. The other arms are fused optimisers of training, whose rows move
only when they are looked up, with `table_weight_decay` swept over all rows every 1, 16 or 64 batches, and without.

Printed, as means over the seeds: the share of useless ids whose row is masked in the end, the share of informative ids
with 20 impressions or more whose row is kept, how often the score ranks one of these above a useless one, AUC on unseen
rows, the threshold, and milliseconds a step.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Printed
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys.config import TrainingConfig
from recsys.evaluation.metrics import auc
from recsys.training.distributed import process_group
from recsys.training.optimizers import Optimizer
from recsys_tables import OptEmbed
from recsys_tables.bytes import OptimizerName
from recsys_tables.distributed.sharding import TableOptimizer, local_shards, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field

IDS, D, BATCH, UNSEEN = 3000, 8, 256, 40_000
CPU = torch.device("cpu")
DENSE_LR, THRESHOLD_LR = 1e-3, 3e-3
SCHEME = OptEmbed("item", IDS, D, alpha=3e-3, threshold_lr=THRESHOLD_LR)


@dataclass(frozen=True)
class Log:
    """ids and clicks [n], the effect of every id [IDS]."""

    ids: np.ndarray
    label: np.ndarray
    effect: np.ndarray

    @classmethod
    def draw(cls, rows: int, seed: int) -> "Log":
        """Half of the ids have no effect."""
        random = np.random.default_rng(seed)
        popularity = 1 / np.arange(1, IDS + 1)
        effect = random.uniform(0.5, 2, IDS) * random.choice([-1, 0, 0, 1], IDS)
        ids = random.choice(IDS, rows, p=popularity / popularity.sum())
        label = random.random(rows) < 1 / (1 + np.exp(1 - effect[ids]))
        return cls(ids, label.astype(np.float32), effect)


class Model(nn.Module):
    """A supernet of one field below one layer."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.engine = EmbeddingEngine([Field(SCHEME)], device)
        self.top = nn.Linear(D, 1)

    def forward(self, ids: np.ndarray) -> Tensor:
        """[B] -> logit [B]."""
        lengths = torch.ones(len(ids), dtype=torch.int64)
        vectors = self.engine(KeyedJaggedTensor.from_lengths_sync(["item"], torch.from_numpy(ids), lengths))
        return self.top(vectors.values()).squeeze(1)

    def loss(self, ids: np.ndarray, label: np.ndarray) -> Tensor:
        """Cross-entropy, and the penalty of the thresholds."""
        entropy = nn.functional.binary_cross_entropy_with_logits(self(ids), torch.from_numpy(label))
        combine: Any = self.engine.combiner.combines[0]
        return entropy + combine.penalty()


def dense(log: Log, steps: int, l2: float) -> tuple[Model, np.ndarray]:
    """Trained by Adam + L2 on everything but the threshold."""
    model = Model()
    threshold = next(model.engine.combiner.parameters())
    others = [parameter for parameter in model.parameters() if parameter is not threshold]
    groups: list[dict[str, Any]] = [
        {"params": others, "weight_decay": l2},
        {"params": [threshold], "lr": THRESHOLD_LR},
    ]
    optimizer = torch.optim.Adam(groups, lr=DENSE_LR, fused=True)
    for step in range(steps):
        part = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        model.loss(log.ids[part], log.label[part]).backward()
        optimizer.step()
    return model, next(model.engine.collections.parameters()).detach().numpy()


def fused(
    log: Log, steps: int, name: OptimizerName, lr: float, decay: float, every: int = 16
) -> tuple[Model, np.ndarray]:
    """Trained as a run is; `decay`: share that a batch takes from all rows."""
    settings = TrainingConfig(
        table_optimizer=name,
        table_lr=lr,
        dense_lr=DENSE_LR,
        table_weight_decay=decay / lr,
        table_decay_every=every,
    )
    model = Model(torch.device("meta"))
    model.top.to_empty(device=CPU).reset_parameters()
    sharded = shard(model, TableOptimizer(name, lr), CPU, 0)
    optimizer = Optimizer(sharded, settings, steps)
    for step in range(steps):
        part = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        model.loss(log.ids[part], log.label[part]).backward()
        optimizer.step()
    return model, local_shards(sharded)[0].weight.numpy()


ADAGRAD, SGD = ("rowwise_adagrad", 0.05), ("sgd", 40.0)
DECAY = 2e-3  # of all rows, a batch
ARMS: dict[str, Callable[[Log, int], tuple[Model, np.ndarray]]] = {
    "dense Adam": lambda log, steps: dense(log, steps, 0.0),
    "dense Adam, L2 1e-6": lambda log, steps: dense(log, steps, 1e-6),
    "dense Adam, L2 1e-5": lambda log, steps: dense(log, steps, 1e-5),
    "dense Adam, L2 1e-4": lambda log, steps: dense(log, steps, 1e-4),
    "Adagrad": lambda log, steps: fused(log, steps, *ADAGRAD, 0.0),
    "Adagrad, swept every batch": lambda log, steps: fused(log, steps, *ADAGRAD, DECAY, 1),
    "Adagrad, swept every 16": lambda log, steps: fused(log, steps, *ADAGRAD, DECAY, 16),
    "Adagrad, swept every 64": lambda log, steps: fused(log, steps, *ADAGRAD, DECAY, 64),
    "SGD": lambda log, steps: fused(log, steps, *SGD, 0.0),
    "SGD, swept every 16": lambda log, steps: fused(log, steps, *SGD, DECAY, 16),
}


def measured(arm: str, steps: int, seed: int) -> dict[str, float]:
    """One arm on one log."""
    torch.manual_seed(seed)
    log = Log.draw(steps * BATCH + UNSEEN, seed)
    began = time.perf_counter()
    model, table = ARMS[arm](log, steps)
    seconds = time.perf_counter() - began
    held = {name: value.numpy() for name, value in model.engine.combiner.combines[0].state_dict().items()}
    _, score, _ = SCHEME.learned(table, held)
    kept, useless = score > 0, log.effect == 0
    often = np.bincount(log.ids[: steps * BATCH], minlength=IDS) >= 20
    with torch.no_grad():
        logit = model.eval()(log.ids[steps * BATCH :])
    ranked = useless | often
    return {
        "useless masked": float(1 - kept[useless].mean()),
        "informative kept": float(kept[~useless & often].mean()),
        "ranks": auc(~useless[ranked], score[ranked]),
        "AUC": auc(log.label[steps * BATCH :], logit.numpy()),
        "threshold": float(held["threshold"][0]),
        "ms a step": 1000 * seconds / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shown = Printed(title=f"one pass of {args.steps} batches of {BATCH}, {IDS} ids, width {D}")
    with process_group():
        for arm in ARMS:
            found = [measured(arm, args.steps, seed) for seed in range(args.seeds)]
            if not shown.columns:
                for name in ("rule of the table", *found[0]):
                    shown.add_column(name)
            means = {name: np.mean([one[name] for one in found]) for name in found[0]}
            shown.add_row(
                arm,
                *(
                    f"{value:.3f}" if name in ("AUC", "ranks") else f"{value:.2f}"
                    for name, value in means.items()
                ),
            )
    Console(width=110).print(shown)


if __name__ == "__main__":
    main()
