"""Does every scheme compute the same on 1, 2 and 4 gloo ranks, however its tables are sharded?

python benchmarks/sharding_agreement.py [--ranks 2 4] [--schemes hash ...] [--steps 50] [--seed 3] [--json]

Every case trains on batches that are split unevenly over the ranks (one rank gets none at times) and is
compared with table_wise on one rank from the same seed: outputs, the gradient of the first step, weights and
optimiser states read back from a checkpoint. The table shows the largest difference, as a share of the largest value
of the same tensor. Another --seed for the compared ranks shows what disagreement looks like.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table as Printed
from torch import nn
from torchrec import KeyedJaggedTensor

import recsys_tables
from recsys_tables.codes import Codes
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import TableOptimizer, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.remap import Remap

D, IDS, BATCH, SEED = 8, 50, 24, 3
KEPT = Remap.of(np.arange(IDS) % 3 > 0)


def codes(feature: str, num_chunks: int) -> Codes:
    """Return codes of most ids of a feature, on 13 rows; the others are hashed."""
    ids = np.arange(IDS - 5)
    rows = np.stack([(5 * ids + chunk) % 13 for chunk in range(num_chunks)], axis=1)
    return Codes.build({feature: ids}, {feature: rows}, 13)


SCHEMES: dict[str, Callable[[str], Any]] = {
    "full": lambda f: recsys_tables.Full(f, IDS, D),
    "hash": lambda f: recsys_tables.Hash(f, 13, D),
    "multi_hash": lambda f: recsys_tables.MultiHash(f, 13, D, 3),
    "quotient_remainder sum": lambda f: recsys_tables.QuotientRemainder(f, IDS, 7, D, "sum"),
    "quotient_remainder concat": lambda f: recsys_tables.QuotientRemainder(f, IDS, 7, D, "concat"),
    "quotient_remainder product": lambda f: recsys_tables.QuotientRemainder(f, IDS, 7, D, "product"),
    "unified": lambda f: recsys_tables.Unified(f, 31, D, 4),
    "unified 2 tables": lambda f: recsys_tables.Unified(f, 31, D, 4, num_tables=2),
    "coded": lambda f: recsys_tables.Coded(f, codes(f, 1), D),
    "coded 2 chunks": lambda f: recsys_tables.Coded(f, codes(f, 2), D),
    "frequency_split": lambda f: recsys_tables.FrequencySplit(f, 20, 9, D),
    "hash_embedding": lambda f: recsys_tables.HashEmbedding(f, 13, 29, D),
    "mixed_radix sum": lambda f: recsys_tables.MixedRadix(f, IDS, (4, 4), D, "sum"),
    "mixed_radix concat": lambda f: recsys_tables.MixedRadix(f, IDS, (7,), D, "concat"),
    "mixed_radix product": lambda f: recsys_tables.MixedRadix(f, IDS, (4, 4), D, "product"),
    "chinese_remainder sum": lambda f: recsys_tables.ChineseRemainder(f, IDS, (7, 8), D, "sum"),
    "chinese_remainder concat": lambda f: recsys_tables.ChineseRemainder(f, IDS, (7, 8), D, "concat"),
    "chinese_remainder product": lambda f: recsys_tables.ChineseRemainder(f, IDS, (7, 8), D, "product"),
    "path_based": lambda f: recsys_tables.PathBased(f, IDS, 17, D),
    "mixed_dimension": lambda f: recsys_tables.MixedDimension(f, IDS, 4, D),
    "robe half": lambda f: recsys_tables.Robe(f, 31, D, 4),
    "robe 2 ids a row": lambda f: recsys_tables.Robe(f, 31, D, 2 * D),
    "tensor_train": lambda f: recsys_tables.TensorTrain(f, IDS, (4, 4), D, 2),
    "mem_com": lambda f: recsys_tables.MEmCom(f, IDS, 13, D),
    "shared": lambda f: recsys_tables.Shared(f, recsys_tables.Full("origin", IDS, D)),
    "compact": lambda f: recsys_tables.Compact(f, KEPT, D // 2, D),
    "compact default": lambda f: recsys_tables.Compact(f, KEPT, D, D, "default"),
    "opt_embed": lambda f: recsys_tables.OptEmbed(f, IDS, D),
    "opt_embed by id": lambda f: recsys_tables.OptEmbed(f, IDS, D, threshold_by="id"),
    "pep": lambda f: recsys_tables.Pep(f, IDS, D, threshold_init=-4.0),
    "deep_light": lambda f: recsys_tables.DeepLight(f, IDS, D),
    "auto_dim": lambda f: recsys_tables.AutoDim(f, IDS, D),
    "auto_srh": lambda f: recsys_tables.AutoSrh(f, IDS, D),
    "mde": lambda f: recsys_tables.Mde(f, IDS, 4, D),
}
SHARDINGS = {  # column shards need an elementwise state
    "table_wise": "rowwise_adagrad",
    "row_wise": "rowwise_adagrad",
    "column_wise": "adagrad",
    "auto": "adagrad",
}
SHARES = {1: [24], 2: [7, 17], 4: [3, 0, 11, 10]}  # rows of a batch on each rank


class Model(nn.Module):
    """Vectors of a multi-valued mean, a weighted sum, a sequence (squared) and a single value, then one layer."""

    def __init__(self, scheme: Callable[[str], Any]) -> None:
        super().__init__()
        fields = [
            Field(scheme("genre"), "mean", multivalued=True),
            Field(scheme("tag"), multivalued=True, weighted=True),
            Field(scheme("history"), "none", multivalued=True),
            Field(scheme("user")),
        ]
        self.engine = EmbeddingEngine(fields, torch.device("meta"))
        self.top = nn.Linear(4 * D, 1)

    def forward(self, ids: KeyedJaggedTensor) -> torch.Tensor:
        out = self.engine(ids)
        history = out.sequences["history"]
        owner = torch.repeat_interleave(torch.arange(len(history.lengths())), history.lengths())
        squares = torch.zeros(len(history.lengths()), D).index_add(0, owner, history.values() ** 2)
        return self.top(torch.cat([out.values(), squares], dim=1)).squeeze(1)


def batch(step: int, rank: int, world_size: int) -> tuple[KeyedJaggedTensor, torch.Tensor]:
    """Return this rank's rows of global batch `step`, and their labels."""
    random = np.random.default_rng([SEED, step])
    shares = np.roll(SHARES[world_size], step)
    mine = slice(int(shares[:rank].sum()), int(shares[: rank + 1].sum()))
    values, lengths, weights = [], [], []
    for feature in ("genre", "tag", "history", "user"):
        counts = np.ones(BATCH, int) if feature == "user" else random.integers(0, 5, BATCH)
        ids = random.integers(0, IDS, counts.sum())
        factors = random.normal(size=counts.sum()) if feature == "tag" else np.ones(counts.sum())
        start = np.concatenate([[0], counts.cumsum()])
        chosen = slice(start[mine.start], start[mine.stop])
        values.append(ids[chosen])
        weights.append(factors[chosen])
        lengths.append(counts[mine])
    labels = torch.from_numpy((random.random(BATCH) < 0.5)[mine].astype(np.float32))
    kjt = KeyedJaggedTensor.from_lengths_sync(
        keys=["genre", "tag", "history", "user"],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        weights=torch.from_numpy(np.concatenate(weights)).float(),
    )
    return kjt, labels


def train(model: nn.Module, steps: int, lr: float) -> list[float]:
    """Train by steps of the global mean loss; DistributedModelParallel averages gradients over ranks.

    Returns the outputs of the last step.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    optimizer = torch.optim.SGD(
        [p for name, p in model.named_parameters() if "embedding_bags" not in name], lr
    )
    for step in range(steps):
        ids, labels = batch(step, rank, world_size)
        optimizer.zero_grad()
        logit = model(ids)
        losses = nn.functional.binary_cross_entropy_with_logits(logit, labels, reduction="sum")
        (losses * world_size / BATCH).backward()
        optimizer.step()
    return model(batch(steps, rank, world_size)[0]).tolist()


def work(out: Path, names: list[str], world_size: int, rank: int, steps: int, seed: int) -> None:
    """One rank: every case, checkpoints and outputs into `out`."""
    store = dist.FileStore(str(out / f"store-{world_size}"), world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store)
    for case, scheme, sharding, optimizer in cases(names, world_size):
        for phase, number, table in (
            ("gradient", 1, TableOptimizer("sgd", lr=1e3)),  # so large that the gradient is what is left
            ("state", steps, TableOptimizer(optimizer, lr=0.1)),
        ):
            torch.manual_seed(SEED)
            model = shard(Model(scheme), table, torch.device("cpu"), seed, sharding)
            model.eval()  # a supernet's ranks would draw widths of their own
            outputs = train(model, number, 0.1)
            folder = out / f"{case}-{world_size}-{phase}"
            save(folder, model, {})
            (folder / f"outputs-{rank}.json").write_text(json.dumps(outputs))
    dist.barrier()
    dist.destroy_process_group()


def cases(names: list[str], world_size: int) -> Iterator[tuple[str, Any, Any, Any]]:
    """(case, scheme, sharding, optimiser); one rank is the reference, once for each optimiser."""
    for number, name in enumerate(names):
        if world_size == 1:
            for optimizer in sorted(set(SHARDINGS.values())):
                yield f"{number}-{optimizer}", SCHEMES[name], "table_wise", optimizer
        else:
            for sharding, optimizer in SHARDINGS.items():
                yield f"{number}-{sharding}", SCHEMES[name], sharding, optimizer


def differences(out: Path, case: str, reference: str, world_size: int) -> dict[str, float]:
    """Largest relative difference of outputs, gradients, weights and optimiser states."""
    found: dict[str, float] = dict.fromkeys(("outputs", "gradients", "weights", "states"), 0.0)
    one, many = (
        [x for r in range(w) for x in json.loads((out / f"{c}-{w}-state" / f"outputs-{r}.json").read_text())]
        for c, w in ((reference, 1), (case, world_size))
    )
    found["outputs"] = relative(np.array(one), np.array(many))
    for phase, table, state in (("gradient", "gradients", "gradients"), ("state", "weights", "states")):
        before, after = (
            Checkpoint(out / f"{reference}-1-{phase}"),
            Checkpoint(out / f"{case}-{world_size}-{phase}"),
        )
        assert before.names == after.names
        for name in before.names:
            kind = state if name.startswith("optimizer/") else table
            found[kind] = max(found[kind], relative(before.read(name).numpy(), after.read(name).numpy()))
    return found


def relative(one: np.ndarray, many: np.ndarray) -> float:
    """Largest difference as a share of the largest value."""
    return float(np.abs(one - many).max() / max(np.abs(one).max(), np.finfo(np.float32).tiny))


def run(names: list[str], ranks: list[int], steps: int, seed: int) -> list[dict[str, Any]]:
    """Start the ranks, wait, compare."""
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    fork = multiprocessing.get_context("fork")  # torch is imported once
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for world_size in [1, *ranks]:
            of = SEED if world_size == 1 else seed
            workers = [
                fork.Process(target=work, args=(out, names, world_size, rank, steps, of), daemon=True)
                for rank in range(world_size)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
                if worker.exitcode:  # daemons: the others end with this process
                    raise RuntimeError(f"a worker of {world_size} failed; see above")
        return [
            {"scheme": name, "sharding": sharding, "ranks": world_size}
            | differences(out, f"{number}-{sharding}", f"{number}-{optimizer}", world_size)
            for number, name in enumerate(names)
            for world_size in ranks
            for sharding, optimizer in SHARDINGS.items()
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], choices=[2, 4])
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=SEED, help="of the compared ranks' tables")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = run(args.schemes, args.ranks, args.steps, args.seed)
    if args.json:
        print(json.dumps(rows))
        return
    shown = Printed(*rows[0], title=f"largest relative difference from one rank, {args.steps} steps")
    for row in rows:
        shown.add_row(*(f"{v:.1e}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=110).print(shown)


if __name__ == "__main__":
    main()
