"""A supernet tells how good a compact model would be by masks on a learner's tables, and no training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.compression.evolution import Evaluate
from recsys.compression.space import Genome, GenomeSpace, Learned
from recsys.evaluation.metrics import auc
from recsys.models import ClickModel
from recsys.training.feed import click_batch
from recsys.training.loop import make_model
from recsys.training.run import NETWORK, Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared


class Supernet:
    """The network of a learner's run above full tables that hold what the learner keeps.

    rows: what genomes are judged on. Features read each other's tables as in the run.
    """

    def __init__(self, run: Run, learned: Learned, space: GenomeSpace, rows: Rows) -> None:
        # what another process makes the same of; a new Run, without features that were loaded here
        self.recipe = replace(run), learned, space, rows
        self._space, self._learned = space, learned
        torch.set_num_threads(run.config.training.num_threads)
        self._model = full_model(run, learned.weights)
        self._tables = {feature: _table(self._model, feature) for feature in space.features}
        self._label = rows.label
        size = run.config.evaluation.batch_size
        parts = [np.arange(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]
        self._batches = [click_batch(self._model.engine, rows.batch(part)) for part in parts]

    @torch.no_grad()
    def quality(self, genome: Genome) -> float:
        """Return the AUC of a genome. A pruned id reads the field's default.

        Not the log loss: widths were drawn in training, so the logits of wider genomes are too far from 0 until they are
        trained as they are.
        """
        keep = self._space.keep(genome)
        for feature, width in zip(self._space.features, genome.widths, strict=True):
            self._tables[feature].copy_(torch.from_numpy(self._learned.masked(feature, keep[feature], width)))
        logits = torch.cat([self._model(batch)[0] for batch in self._batches])
        return auc(self._label, logits.double().numpy())


def full_model(run: Run, weights: Mapping[str, np.ndarray]) -> ClickModel:
    """Restore a run as a model of full tables that hold `weights`, by feature, on the CPU, in evaluation mode."""
    tables = {"scheme": "full", "embedding_dim": run.config.tables.embedding_dim}
    model = make_model(run.config.replace({"tables": tables}), run.features(), device="cpu")
    saved = run.checkpoint()
    names = [name for name in saved.names if name.startswith(NETWORK)]
    model.network.load_state_dict({name.removeprefix(NETWORK): saved.read(name) for name in names})
    for feature, values in weights.items():
        _table(model, feature).copy_(torch.from_numpy(values))
    return model.eval()


def validation_rows(prepared: Prepared | str | Path, most: int, seed: int) -> Rows:
    """Return the validation rows of a prepared set, or `most` of them drawn at random, in their order."""
    rows = Rows.load(prepared, "validation")
    if len(rows) <= most:
        return rows
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
    return Rows.from_table(rows.features, rows.table.take(chosen))


@contextmanager
def evaluator(supernet: Supernet) -> Iterator[Evaluate]:
    """Evaluate genomes one after the other, in this process."""
    yield lambda genomes: (supernet.quality(genome) for genome in genomes)


def _table(model: ClickModel, feature: str) -> Tensor:
    name = f".{feature}/full.weight"
    (table,) = (p.data for key, p in model.engine.named_parameters() if key.endswith(name))
    return table
