"""Command on one run: train."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.commands.options import (
    PREPARED,
    RUNS,
    AddressOption,
    ConfigArgument,
    DataOption,
    DryRunOption,
    JsonOption,
    OnOption,
    PreparedOption,
    RunsOption,
)
from recsys.console import (
    announce,
    app,
    bars,
    err,
    preparing,
    print_cost,
    print_json,
    print_metrics,
    print_place,
    ready,
    warn,
    with_doubts,
)
from recsys_cython_ext.progress import Progress

RayWorkersOption = Annotated[
    int | None, typer.Option(min=1, help="train on Ray, in so many processes; a divisor of 64")
]
CpusOption = Annotated[float, typer.Option(help="CPUs of each, as Ray counts them")]
WheelOption = Annotated[
    Path | None,
    typer.Option(help="this package as a wheel, for workers that have another version or none"),
]
FailuresOption = Annotated[
    int, typer.Option(min=0, help="new starts from the last checkpoint after workers were lost")
]


@app.command(rich_help_panel="Training")
def train(
    config: ConfigArgument,
    data: DataOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="overrides training.seed")] = None,
    on: OnOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    workers: RayWorkersOption = None,
    address: AddressOption = None,
    cpus_per_worker: CpusOption = 0.5,
    wheel: WheelOption = None,
    max_failures: FailuresOption = 3,
    dry_run: DryRunOption = False,
    profile: Annotated[bool, typer.Option("--profile", help="write a trace of a few steps")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one run and evaluate it on the test rows; a finished run is shown as it is."""
    from recsys.config import load_experiment
    from recsys.cost import Forecast
    from recsys.training.distributed import require_one_process
    from recsys.training.train import train as run_train

    require_one_process()  # before data are prepared
    experiment = load_experiment(config, data, on)
    if seed is not None:
        experiment = experiment.replace({"training.seed": seed})
    if dry_run:
        return _print_cost(experiment, prepared, on, runs, as_json)
    forecast = Forecast(experiment, announce)
    with bars(runs, prepared) as show:
        watch = _watch(show, forecast)
        if workers is None and address is None:
            if wheel is not None:
                raise ValueError("--wheel is for the workers of a Ray job: give --workers too")
            forecast.prepared = ready(experiment, prepared, on, show)
            run = run_train(experiment, forecast.prepared, runs, watch, profile)
        else:
            options = (workers or 1, cpus_per_worker, address, wheel, max_failures)
            run = _train_on_ray(experiment, prepared, on, runs, options, show, watch, profile)
    if as_json:
        return print_json({"path": str(run.path), **run.metrics})
    print_place("", run.path, f"  {run.metrics['bytes']['total']:,} bytes of tables")
    print_metrics({"validation": run.metrics["validation"], "test": run.metrics["test"]})


def _print_cost(experiment: Any, prepared: Path, on: Path | None, runs: Path, as_json: bool) -> None:
    """Print what a training takes in this process, and train nothing."""
    from recsys.cost import cost_of_run

    with bars(runs, prepared) as show:
        cost = cost_of_run(experiment, ready(experiment, prepared, on, show))
    print_cost(cost, as_json)


def _watch(show: Progress, forecast: Any) -> Any:
    """Return a watch that prints every evaluation, with the rate that the progress tells, and one forecast."""
    from recsys.training.loop import Watch

    rate = ""

    def progress(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        nonlocal rate
        rate = detail
        show(stage, finished, of, detail)
        forecast.progress(stage, finished, of)

    def report(entry: dict[str, Any]) -> None:
        auc = entry["validation_auc"]
        loss = f"train loss {entry['train_loss']:.4f}" if "train_loss" in entry else "before training"
        err.print(
            f"epoch {entry['epoch']:.2f}  {loss}  "
            f"validation AUC {'–' if auc is None else f'{auc:.4f}'}  "
            f"logloss {entry['validation_logloss']:.5f}  {rate}",
            soft_wrap=True,
        )

    return Watch(report, progress, warn)


def _train_on_ray(
    experiment: Any,
    prepared: Path,
    on: Path | None,
    runs: Path,
    options: tuple[Any, ...],
    show: Progress,
    watch: Any,
    profile: bool,
) -> Any:
    """Prepare what is missing and train, in one session of Ray; `options` are the fields of `Workers`."""
    try:
        from recsys.training.ray_job import Workers, session, train_on_ray
    except ImportError:
        raise ValueError(
            "--workers and --address need Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    from recsys_pipelines.preparation.on_ray import RayData
    from recsys_pipelines.preparation.prepare import prepare

    workers = Workers(*options)
    with session(workers):
        if on is None:
            runner = RayData(workers.count)
            data = with_doubts(
                prepare(experiment.data, experiment.features, prepared, preparing(show), runner=runner)
            )
        else:
            data = ready(experiment, prepared, on, show)
        return train_on_ray(experiment, data, runs, workers, watch, profile)
