"""What a step updates: schedules against their formulas, clipping and accumulation against torch, tables against loops."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from recsys.config import ExperimentConfig, TrainingConfig
from recsys.models.click import ClickBatch
from recsys.training.clock import StepClock
from recsys.training.distributed import process_group, shard_model
from recsys.training.feed import Feed
from recsys.training.loop import make_model
from recsys.training.optimizers import Optimizer, rate_factor
from recsys.training.pipeline import Pipeline
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.pieces import pieces, snapshot

Configure = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture(scope="module")
def rows(prepared: Prepared) -> Rows:
    return Rows.load(prepared.path, "train")


class Training:
    """A model, its optimiser and its pipeline; `steps` trains on one batch after the other."""

    def __init__(self, config: ExperimentConfig, rows: Rows, num_steps: int = 10) -> None:
        torch.manual_seed(0)
        model = make_model(config, rows.features, rows)
        self.model: Any = shard_model(model, config, CPU)
        self.optimizer = Optimizer(self.model, config.training, num_steps)
        self.skipped: list[float] = []
        self.pipeline = Pipeline(self.model, self.optimizer, CPU, 0.0, StepClock(model), self.skipped.append)
        feed = Feed(rows, model.engine, config.training.batch_size, 0, None)
        self.batches = feed.epoch(0)

    def steps(self, count: int, batches: Iterator[ClickBatch] | None = None) -> list[dict[str, torch.Tensor]]:
        """State before the first step and after each."""
        self.model.train()
        found = [self.state()]
        for _ in range(count):
            self.pipeline.progress(batches or self.batches)
            found.append(self.state())
        return found

    def state(self) -> dict[str, torch.Tensor]:
        return {piece.name: piece.values for piece in snapshot(self.model)}


# ---- the schedule


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_learning_rates_follow_their_formula(schedule: Any, warmup: int, final: float) -> None:
    settings = TrainingConfig(warmup_steps=warmup, schedule=schedule, final_lr=final)
    for step in range(20):
        if step < warmup:
            want = (step + 1) / warmup
        else:
            x = (step - warmup) / (20 - warmup)
            shape = {"constant": 1.0, "linear": 1 - x, "cosine": 0.5 + 0.5 * math.cos(math.pi * x)}[schedule]
            want = 1.0 if schedule == "constant" else final + (1 - final) * shape
        assert rate_factor(settings, step, 20) == pytest.approx(want)


def test_both_rates_of_every_batch_are_the_schedule(configure: Configure, rows: Rows) -> None:
    """FBGEMM has a rate of its own: with SGD a table moves by it times the gradient, which is the first batch's."""
    config = configure(
        {
            "training.schedule": "linear",
            "training.warmup_steps": 2,
            "training.table_optimizer": "sgd",
            "training.table_lr": 0.5,
            "training.dense_optimizer": "sgd",
            "training.dense_lr": 0.25,
        }
    )
    moved = []
    for start in range(6):
        training = Training(config, rows, num_steps=6)
        training.optimizer.steps = start
        before, after = training.steps(1)
        moved.append(
            {name: after[name] - before[name] for name in before if not name.startswith("optimizer/")}
        )
    for step in range(6):
        factor = rate_factor(config.training, step, 6) / rate_factor(
            config.training, 1, 6
        )  # the rate is full there
        for name, full in moved[1].items():
            torch.testing.assert_close(moved[step][name], factor * full, rtol=1e-4, atol=1e-7)
    assert any(full.abs().max() > 1e-3 for name, full in moved[1].items() if name.startswith("table/"))


# ---- tables


@pytest.mark.parametrize("name", ["rowwise_adagrad", "adagrad", "sgd"])
def test_tables_are_updated_as_their_optimiser_says(configure: Configure, rows: Rows, name: str) -> None:
    """Gradients are those that SGD of rate 1 subtracts from the same weights."""
    settings = {"training.table_lr": 0.1, "training.dense_lr": 1e-12, "training.table_optimizer": name}
    states = Training(configure(settings), rows).steps(1)
    unit = {"training.table_lr": 1.0, "training.dense_lr": 1e-12, "training.table_optimizer": "sgd"}
    plain = Training(configure(unit), rows).steps(1)
    for table in [key for key in states[0] if key.startswith("table/")]:
        gradient = (plain[0][table] - plain[1][table]).double()
        weight = states[0][table].double()
        for row in range(len(weight)):
            square = gradient[row] ** 2
            if name == "rowwise_adagrad":
                step = gradient[row] / (square.mean().sqrt() + 1e-8)
            elif name == "adagrad":
                step = gradient[row] / (square.sqrt() + 1e-8)
            else:
                step = gradient[row]
            weight[row] -= 0.1 * step
        touched = gradient.abs().amin(dim=1) > 1e-6  # a gradient read off the weights is rounded
        assert touched.sum() > 5
        torch.testing.assert_close(states[1][table].double()[touched], weight[touched], rtol=0, atol=2e-3)


def test_fbgemm_has_no_adam_on_a_cpu(configure: Configure, rows: Rows) -> None:
    settings = {"training.table_optimizer": "adam", "job.table_kernel": "fbgemm"}
    with pytest.raises(ValueError, match=r"no fused Adam for tables on a CPU: use the kernel 'recsys'"):
        Training(configure(settings), rows)


# ---- the dense part


def dense(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for name, values in state.items() if name.startswith("dense/")}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_the_dense_part_takes_one_step_of_torch_on_the_mean_gradient(
    configure: Configure, rows: Rows, name: str, accumulate: int, clip: float | None
) -> None:
    """Tables that do not move let the batches' gradients be computed one by one."""
    still = {"training.table_optimizer": "sgd", "training.table_lr": 1e-30, "training.batch_size": 64}
    one = {"training.dense_optimizer": "sgd", "training.dense_lr": 1.0}
    config = configure(still | {"model.hidden": [8]})
    batches = list(Training(config, rows).batches)[:accumulate]
    gradients = []
    for batch in batches:
        before, after = Training(config.replace(one), rows).steps(1, iter([batch]))
        gradients.append({key: before[key] - after[key] for key in dense(before)})
    settings = {
        "training.dense_optimizer": name,
        "training.dense_lr": 0.01,
        "training.dense_decay": 0.0 if name == "sgd" else 0.1,
        "training.clip_norm": clip,
        "training.accumulate": accumulate,
    }
    states = Training(config.replace(settings), rows).steps(accumulate, iter(batches))
    for state in states[:-1]:
        assert all(dense(state)[key].equal(dense(states[0])[key]) for key in dense(state)), "not yet"
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
    }
    parameters = {key: nn.Parameter(values.double()) for key, values in dense(states[0]).items()}
    for key, parameter in parameters.items():
        parameter.grad = torch.stack([own[key] for own in gradients]).double().mean(dim=0)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters.values(), clip)
    kinds[name](list(parameters.values()), lr=0.01, weight_decay=settings["training.dense_decay"]).step()
    for key, parameter in parameters.items():
        clear = parameter.grad.abs() > 1e-6  # Adam makes a step of full length of what was rounded
        torch.testing.assert_close(
            dense(states[-1])[key].double()[clear], parameter.detach()[clear], rtol=0, atol=2e-4
        )


def test_batches_that_are_left_out_change_nothing(configure: Configure, rows: Rows) -> None:
    """Not even where all that would accumulate are, nor what a network keeps of a batch."""
    config = configure({"training.accumulate": 2, "training.batch_size": 64})
    training = Training(config, rows)
    network = training.model.module.network
    network.register_buffer("moment", torch.zeros(1))
    network.register_forward_pre_hook(lambda module, _: module.moment.add_(1) and None)
    training.optimizer = Optimizer(training.model, config.training, 10)
    training.pipeline = Pipeline(
        training.model,
        training.optimizer,
        CPU,
        0.0,
        StepClock(training.model.module),
        training.skipped.append,
    )

    def spoilt() -> Iterator[ClickBatch]:
        for number, batch in enumerate(training.batches):
            if number < 2:
                batch.label.fill_(torch.nan)
            yield batch

    states = training.steps(4, spoilt())
    assert len(training.skipped) == 2
    for state in states[1:3]:
        assert all(state[key].equal(states[0][key]) for key in state)
    assert states[4]["dense/network.moment"] == 2
    assert not any(states[4][key].equal(states[0][key]) for key in dense(states[0]))


def test_what_has_accumulated_can_be_gone_on_from(configure: Configure, rows: Rows) -> None:
    config = configure(
        {"training.accumulate": 4, "training.batch_size": 64, "training.dense_optimizer": "adamw"}
    )
    whole = Training(config, rows)
    batches = list(Training(config, rows).batches)[:8]
    wanted = whole.steps(8, iter(batches))[-1]
    first, second = Training(config, rows), Training(config, rows)
    first.steps(6, iter(batches[:6]))
    for own, other in zip(pieces(second.model), pieces(first.model), strict=True):
        own.values.copy_(other.values)
    second.optimizer.load({name: value.clone() for name, value in first.optimizer.state().items()}, 6)
    found = second.steps(2, iter(batches[6:]))[-1]
    assert all(found[key].equal(wanted[key]) for key in wanted)


# ---- decay of all rows


@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_sweeps_multiply_all_rows_by_what_batches_since_the_last_are_due(
    configure: Configure, rows: Rows, every: int, optimizer: str
) -> None:
    """Rows that no batch looks up move by sweeps alone, when one is due, and at the end of training."""
    settings = {"training.table_optimizer": optimizer, "training.table_lr": 0.4, "training.batch_size": 64}
    settings |= {"training.schedule": "linear", "training.warmup_steps": 2, "training.final_lr": 0.1}
    decay = {"training.table_weight_decay": 0.3, "training.table_decay_every": every}
    plain = Training(configure(settings), rows).steps(10)
    swept = Training(configure(settings | decay), rows).steps(10)
    config = configure(settings).training
    factors = [1 - 0.4 * rate_factor(config, step, 10) * 0.3 for step in range(10)]
    due = [math.prod(factors[: 10 if step == 10 else step // every * every]) for step in range(11)]
    tables = [name for name in plain[0] if name.startswith("table/")]
    for name in tables:
        still = (plain[-1][name] == plain[0][name]).all(dim=1)
        assert still.any()
        for step in range(11):
            torch.testing.assert_close(swept[step][name][still], plain[0][name][still] * due[step])
        if every == 1:
            torch.testing.assert_close(swept[1][name], plain[1][name] * factors[0])
    states = [name for name in plain[0] if name.startswith("optimizer/")]
    assert all(swept[1][name].equal(plain[1][name]) for name in states)


def test_batches_that_are_left_out_count_for_sweeps(configure: Configure, rows: Rows) -> None:
    """What is due depends on the number of batches alone, so that a run that goes on needs to know no more."""
    settings = {"training.table_lr": 0.4, "training.table_weight_decay": 0.3, "training.table_decay_every": 2}
    training = Training(configure(settings), rows)

    def spoilt() -> Iterator[ClickBatch]:
        for batch in training.batches:
            batch.label.fill_(torch.nan)
            yield batch

    states = training.steps(2, spoilt())
    assert len(training.skipped) == 2
    for name in [name for name in states[0] if name.startswith("table/")]:
        assert states[1][name].equal(states[0][name])
        torch.testing.assert_close(states[2][name], states[0][name] * (1 - 0.4 * 0.3) ** 2)


def test_a_decay_that_would_turn_rows_round_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table_lr 5 times table_weight_decay 0\.2 must be below 1"):
        TrainingConfig(table_lr=5, table_weight_decay=0.2)


# ---- thresholds


def threshold_after_a_step(configure: Configure, rows: Rows, **settings: Any) -> tuple[float, float]:
    """Of the first field, from 0.2, and the loss that is reported; everything else hardly moves."""
    tables = {"scheme": "opt_embed", "embedding_dim": 8, "alpha": settings.pop("alpha")}
    tables["threshold_lr"] = settings.pop("threshold_lr")
    still = {"training.table_optimizer": "sgd", "training.table_lr": 1e-30, "training.dense_optimizer": "sgd"}
    training = Training(configure(still | settings, tables=tables), rows)
    threshold = training.optimizer._parameters["engine.combiner.combines.0.threshold"]
    with torch.no_grad():
        threshold.fill_(0.2)
    torch.manual_seed(0)
    training.steps(1)
    return threshold.item(), training.pipeline.loss


def test_thresholds_have_a_rate_of_their_own_on_the_schedule_and_do_not_decay(
    configure: Configure, rows: Rows
) -> None:
    unit, _ = threshold_after_a_step(configure, rows, alpha=0.5, threshold_lr=1.0)
    gradient = 0.2 - unit
    settings = {"training.dense_lr": 0.01, "training.dense_decay": 0.5, "training.warmup_steps": 4}
    found, _ = threshold_after_a_step(configure, rows, alpha=0.5, threshold_lr=0.3, **settings)
    assert abs(gradient) > 0.1
    assert found == pytest.approx(0.2 - 0.3 / 4 * gradient, abs=1e-6)
    ordinary, _ = threshold_after_a_step(
        configure, rows, alpha=0.5, threshold_lr=None, **{"training.dense_lr": 0.01}
    )
    assert ordinary == pytest.approx(0.2 - 0.01 * gradient, abs=1e-6)


def test_thresholds_by_id_are_not_swept(configure: Configure, rows: Rows) -> None:
    settings = {"training.table_lr": 0.4, "training.table_weight_decay": 0.3, "training.table_decay_every": 1}
    tables = {"scheme": "opt_embed", "embedding_dim": 8, "threshold_by": "id"}
    training = Training(configure(settings, tables=tables), rows)
    for piece in pieces(training.model):
        if piece.name.startswith("table/"):
            piece.values.fill_(1)
    _, after = training.steps(1)
    missing = 0  # a code that no row of the log has
    assert after["table/user_id/threshold"][missing].tolist() == [1] * 4
    torch.testing.assert_close(after["table/user_id/full"][missing], torch.full((8,), 1 - 0.4 * 0.3))


def test_the_penalty_is_trained_on_and_not_reported(configure: Configure, rows: Rows) -> None:
    without, loss = threshold_after_a_step(configure, rows, alpha=0.0, threshold_lr=1.0)
    with_it, same = threshold_after_a_step(configure, rows, alpha=0.7, threshold_lr=1.0)
    assert with_it - without == pytest.approx(0.7 * math.exp(-0.2), abs=1e-5)
    assert same == loss
