"""The state of a training, with the tensors of a checkpoint, makes a run go on as if it had not stopped.

Random numbers need no state: every step seeds them from (seed, epoch, step, rank).
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from recsys.config import TrainingConfig


@dataclass
class TrainingState:
    """A position, sums since the last evaluation, evaluations so far, and the best of them."""

    epoch: int = 0
    step: int = 0  # batches done of this epoch
    steps: int = 0  # batches done in all
    loss_sum: float = 0.0
    loss_rows: int = 0
    rows: int = 0
    skipped: int = 0  # batches left out, for their loss was no number
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)  # validation metrics there
    best_steps: int = 0
    worse: int = 0  # evaluations since

    def count(self, loss: float, rows: int) -> None:
        """Count one more batch of `rows` rows; one that was left out has no loss."""
        self.step, self.steps, self.rows = self.step + 1, self.steps + 1, self.rows + rows
        if math.isfinite(loss):
            self.loss_sum, self.loss_rows = self.loss_sum + loss * rows, self.loss_rows + rows

    def evaluated(self, metrics: dict[str, Any], settings: TrainingConfig, num_steps: int) -> bool:
        """Note an evaluation after `step` of `num_steps` batches of the epoch, and tell whether it is the best so far.

        There is no training loss before the first batch.
        """
        at = {"epoch": self.epoch + self.step / num_steps, "rows": self.rows}
        if self.rows:
            at["train_loss"] = self.loss_sum / max(1, self.loss_rows)
        self.history.append(at | {f"validation_{name}": value for name, value in metrics.items()})
        self.loss_sum, self.loss_rows = 0.0, 0
        better = not self.best or settings.score(metrics) > settings.score(self.best)
        if better:
            self.best, self.best_steps, self.worse = metrics, self.steps, 0
        else:
            self.worse += 1
        return better

    def at_best(self) -> dict[str, Any]:
        """Return batches, epochs and rows trained on up to the best evaluation, whose model the run keeps."""
        best = self.history[-1 - self.worse]
        return {"steps": self.best_steps, "epoch": best["epoch"], "rows": best["rows"]}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; JSON keeps their floats to the bit."""
        return asdict(self)
