"""A step updates by two optimisers on one schedule: the tables' fused one, and that of everything else."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys.config import TrainingConfig
from recsys.training.distributed import average, dense_tensors
from recsys_tables.distributed.kernel_tables import fbgemm_modules
from recsys_tables.distributed.sharding import local_shards
from recsys_tables.engine.engine import engine_of

_DENSE = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


class Optimizer:
    """Both optimisers behind `zero_grad` and `step`, which TorchRec's pipelines call around every batch.

    Tables are updated in the backward pass of every batch. The rest is updated after `accumulate` batches, by the
    mean of their gradients over batches and ranks, whose norm over all of these parameters `clip_norm` bounds. A batch
    that is left out adds nothing to that sum. Moments of a batch that a network keeps are averaged over ranks.
    Parameters to which their module gives learning rates of their own (`learning_rates`) follow the same schedule, and
    `dense_decay` leaves them alone.
    """

    def __init__(self, model: DistributedModelParallel, settings: TrainingConfig, num_steps: int) -> None:
        """Take the settings; the schedule ends after `num_steps` batches, those of the whole training."""
        self._settings, self.num_steps = settings, num_steps
        self._tables = model.fused_optimizer
        self._parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
        self._fused = settings.dense_optimizer != "adagrad"  # which keeps its steps on the CPU
        by_rate = _by_rate(model, list(self._parameters.values()), settings.dense_lr)
        self._rates = [rate for rate, _, _ in by_rate]
        self._dense = _DENSE[settings.dense_optimizer](
            [
                {"params": parameters, "lr": rate, "weight_decay": settings.dense_decay if decays else 0.0}
                for rate, parameters, decays in by_rate
            ],
            **({"fused": True} if self._fused else {}),
        )
        shrinking = {table.name for table in engine_of(model).tables if table.decays}
        self._decayed = [
            piece.weight
            for piece in (local_shards(model) if settings.table_weight_decay else ())
            if piece.table in shrinking
        ]
        self._fused_modules = fbgemm_modules(engine_of(model))
        self._buffers = [
            value
            for name, value in dense_tensors(model).items()
            if name not in self._parameters and value.is_floating_point()
        ]
        self._before: list[Tensor] = []
        self.steps = 0  # batches so far
        self._inherited = 0  # batches of the trainings whose states this one began with

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the learning rates of the coming batch, and forget gradients unless they accumulate."""
        factor = rate_factor(self._settings, self.steps, self.num_steps)
        for group in self._tables.param_groups:
            group["lr"] = self._settings.table_lr * factor
        for group, rate in zip(self._dense.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._tables.zero_grad()  # hands the rate to FBGEMM
        # rounding and Adam on a GPU go by it, which counts forward passes, evaluations too, and forgets the count
        for module in self._fused_modules:
            module.iter.fill_(self._inherited + self.steps)
            module.iter_cpu.fill_(self._inherited + self.steps)
        if self.steps % self._settings.accumulate == 0:
            self._dense.zero_grad(set_to_none)
        self._before = [buffer.clone() for buffer in self._buffers]

    def leave_out(self) -> None:
        """Forget what the forward pass since `zero_grad` left in the model; a step without gradients follows."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def step(self) -> None:
        """Count a batch, and update the dense part where one is due."""
        self.steps += 1
        self._decay_tables()
        every = self._settings.accumulate
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        average([*gradients, *self._buffers])  # what has accumulated is alike on all ranks, and its own mean
        if self.steps % every and self.steps < self.num_steps:
            return
        gathered = (self.steps - 1) % every + 1
        if gathered > 1 and gradients:
            torch._foreach_div_(gradients, gathered)
        if self._settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip_norm)
        self._dense.step()

    def _decay_tables(self) -> None:
        """Multiply all rows by 1 - table_lr · λ for each batch since the last sweep, where a sweep is due.

        The fused optimiser sees only rows that a batch looks up. Batches that were left out count too, as they do for
        the schedule: what is due depends on the number of batches alone. A training that stops early ends at most
        `table_decay_every` - 1 batches after its last sweep.
        """
        settings, steps, every = self._settings, self.steps, self._settings.table_decay_every
        if not self._decayed or (steps % every and steps < self.num_steps):
            return
        torch._foreach_mul_(
            self._decayed,
            math.prod(
                1
                - settings.table_lr
                * rate_factor(settings, step, self.num_steps)
                * settings.table_weight_decay
                for step in range((steps - 1) // every * every, steps)
            ),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the dense optimiser's state, and gradients that have accumulated, by `<parameter>/<kind>`.

        Of a training that began with the states of others, the number of their batches too.
        """
        state = {_INHERITED: torch.tensor(self._inherited)} if self._inherited else {}
        for name, parameter in self._parameters.items():
            for kind, value in self._dense.state.get(parameter, {}).items():
                state[f"{name}/{kind}"] = torch.as_tensor(value)
            if self.steps % self._settings.accumulate and parameter.grad is not None:
                state[f"{name}/{_GRADIENT}"] = parameter.grad
        return state

    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from the `state` of an optimiser with these settings after `steps` batches."""
        self.steps = steps
        self._inherited = int(state.get(_INHERITED, 0))
        for name, parameter in self._parameters.items():
            by_kind = {
                key.rpartition("/")[2]: value
                for key, value in state.items()
                if key.rpartition("/")[0] == name
            }
            gradient = by_kind.pop(_GRADIENT, None)
            if gradient is not None:
                parameter.grad = gradient.to(parameter.device)
            if by_kind:
                self._dense.state[parameter] = {
                    kind: value if kind == "step" and not self._fused else value.to(parameter.device)
                    for kind, value in by_kind.items()
                }

    def inherit(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take the moments of an optimiser's `state` after `steps` batches; its own batches and schedule begin at 0.

        Gradients that had accumulated there are left behind.
        """
        self.load({key: v for key, v in state.items() if key.rpartition("/")[2] != _GRADIENT}, steps=0)
        self._inherited += steps


_GRADIENT, _INHERITED = "accumulated", "inherited_batches"


def _by_rate(
    model: DistributedModelParallel, parameters: Sequence[Tensor], rate: float
) -> list[tuple[float, list[Tensor], bool]]:
    """Return (learning rate, its parameters, whether they are decayed), first those of the ordinary `rate`."""
    special_rates = {
        id(module.get_parameter(name)): rate if special is None else special
        for module in engine_of(model).combiner.combines
        for name, special in getattr(module, "learning_rates", {}).items()
    }
    groups = [(rate, [p for p in parameters if id(p) not in special_rates], True)]
    for special in sorted(set(special_rates.values())):
        groups.append((special, [p for p in parameters if special_rates.get(id(p)) == special], False))
    return [group for group in groups if group[1]]


def rate_factor(settings: TrainingConfig, step: int, num_steps: int) -> float:
    """Return the factor of learning rates for batch `step` (from 0) of `num_steps`: warm-up, then the schedule."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.final_lr + (1 - settings.final_lr) * left
