"""Commands on one model: tables, train, evaluate, predict."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.console import (
    PREPARED,
    RUNS,
    ConfigArgument,
    DataOption,
    JsonOption,
    OnOption,
    PreparedOption,
    RunArgument,
    RunsOption,
    app,
    bars,
    err,
    out,
    preparing,
    print_json,
    print_metrics,
    ready,
)
from recsys_cython_ext.progress import Progress


@app.command()
def tables(
    config: ConfigArgument,
    data: DataOption = None,
    ranks: Annotated[int, typer.Option(min=1, help="processes the tables are sharded over")] = 1,
    sharding: Annotated[
        Literal["auto", "table_wise", "row_wise", "column_wise"],
        typer.Option(help="how TorchRec places them"),
    ] = "auto",
    optimizer: Annotated[
        Literal["rowwise_adagrad", "adagrad", "sgd", "adam"],
        typer.Option(help="whose state is counted; column_wise needs an elementwise one"),
    ] = "rowwise_adagrad",
    on: OnOption = None,
    prepared: PreparedOption = PREPARED,
    as_json: JsonOption = False,
) -> None:
    """Print the planned tables: rows and bytes by feature, collisions of training's ids, bytes by rank."""
    from recsys.config import load
    from recsys.planning import report_tables
    from recsys.reports.tables import grids
    from recsys_pipelines.batches.loader import Rows

    experiment = load(config, data)
    with bars() as show:
        found = ready(experiment, prepared, on, show)
    found.verify()
    report = report_tables(experiment, Rows.load(found.path, "train"), ranks, sharding, optimizer)
    if as_json:
        return print_json(report.to_dict())
    for grid in grids(report):
        out.print(grid)


@app.command()
def train(
    config: ConfigArgument,
    data: DataOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="overrides training.seed")] = None,
    on: OnOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    workers: Annotated[
        int | None, typer.Option(min=1, help="train on Ray, in so many processes; a divisor of 64")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: started on this machine")] = None,
    cpus_per_worker: Annotated[float, typer.Option(help="CPUs of each, as Ray counts them")] = 0.5,
    wheel: Annotated[
        Path | None,
        typer.Option(help="this package as a wheel, for workers that have another version or none"),
    ] = None,
    max_failures: Annotated[
        int, typer.Option(min=0, help="new starts from the last checkpoint after workers were lost")
    ] = 3,
    profile: Annotated[bool, typer.Option("--profile", help="write a trace of a few steps")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one run and evaluate it on the test rows; a finished run is shown as it is."""
    from recsys.config import load
    from recsys.training.distributed import require_one_process
    from recsys.training.loop import Watch
    from recsys.training.run import train as run_train

    require_one_process()  # before data are prepared
    experiment = load(config, data)
    if seed is not None:
        experiment = experiment.replace({"training.seed": seed})
    rate = ""
    with bars() as show:

        def progress(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
            nonlocal rate
            rate = detail
            show(stage, finished, of, detail)

        def report(entry: dict[str, Any]) -> None:
            err.print(
                f"epoch {entry['epoch']:.2f}  train loss {entry['train_loss']:.4f}  "
                f"validation AUC {entry['validation_auc']:.4f}  logloss {entry['validation_logloss']:.5f}  {rate}",
                soft_wrap=True,
            )

        watch = Watch(report, progress, lambda text: err.print(text, style="yellow", soft_wrap=True))
        if workers is None and address is None:
            if wheel is not None:
                raise ValueError("--wheel is for the workers of a Ray job: give --workers too")
            run = run_train(experiment, ready(experiment, prepared, on, show), runs, watch, profile)
        else:
            asked = (workers or 1, cpus_per_worker, address, wheel, max_failures)
            run = _train_on_ray(experiment, prepared, on, runs, asked, show, watch, profile)
    if as_json:
        return print_json({"path": str(run.path), **run.metrics})
    out.print(f"[bold]{run.path}[/bold]  {run.metrics['bytes']['total']:,} bytes of tables")
    print_metrics({"validation": run.metrics["validation"], "test": run.metrics["test"]})


@app.command()
def evaluate(
    run: RunArgument,
    path: Annotated[
        str | None, typer.Option("--data", help="a labelled file or URL; default: the run's own test rows")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score labelled rows with a run's checkpoint and print its metrics."""
    import numpy as np

    from recsys.evaluation.metrics import evaluate as measure
    from recsys.serving.scoring import score_file, score_split, unknown_ids
    from recsys.training.run import Run
    from recsys_pipelines.quarantine import Quarantine

    finished = Run.open(run)
    quarantine = Quarantine(finished.config.data.quarantine_limit)
    if path is None:
        parts = [score_split(finished, "test")]
    else:
        parts = list(score_file(finished, path, labelled=True, quarantine=quarantine))
    rows = sum(len(part) for part, _ in parts)
    quarantine.check(rows + quarantine.count)
    if rows == 0:
        raise ValueError(f"{path}: holds no readable row")
    users = None if parts[0][0].user is None else np.concatenate([part.user for part, _ in parts])
    metrics = measure(
        np.concatenate([part.label for part, _ in parts]),
        np.concatenate([predictions for _, predictions in parts]),
        groups=users,
    )
    metrics["quarantined"] = quarantine.count
    unknown: Counter[str] = Counter()
    for part, _ in parts:
        unknown.update(unknown_ids(part))
    metrics["unknown_ids"] = sum(unknown.values())
    if as_json:
        return print_json(metrics)
    print_metrics({str(path or "test"): metrics})


@app.command()
def predict(
    run: RunArgument,
    path: Annotated[
        str, typer.Argument(help="file or URL of the run's source format; labels are not needed")
    ],
    output: Annotated[Path, typer.Option("--out", help="Parquet file with row_id and prediction")] = Path(
        "predictions.parquet"
    ),
    as_json: JsonOption = False,
) -> None:
    """Score the unlabelled rows of a file."""
    from recsys.serving.scoring import predict_file
    from recsys.training.run import Run

    counts = predict_file(Run.open(run), path, output)
    if as_json:
        return print_json({"path": str(output), **counts})
    out.print(
        f"{output}: {counts['rows_in']:,} rows in = {counts['rows_scored']:,} scored "
        f"+ {counts['quarantined']:,} quarantined; {sum(counts['unknown_ids'].values()):,} ids outside a vocabulary"
    )


def _train_on_ray(
    experiment: Any,
    prepared: Path,
    on: Path | None,
    runs: Path,
    asked: tuple[Any, ...],
    show: Progress,
    watch: Any,
    profile: bool,
) -> Any:
    """Prepare what is missing and train, in one session of Ray; `asked` are the fields of `Workers`."""
    try:
        from recsys.training.ray_job import Workers, session, train_on_ray
    except ImportError:
        raise ValueError(
            "--workers and --address need Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    from recsys_pipelines.preparation.on_ray import RayData
    from recsys_pipelines.preparation.prepare import prepare

    workers = Workers(*asked)
    with session(workers):
        if on is None:
            runner = RayData(workers.count)
            found = prepare(experiment.data, experiment.features, prepared, preparing(show), runner=runner)
        else:
            found = ready(experiment, prepared, on, show)
        return train_on_ray(experiment, found, runs, workers, watch, profile)
