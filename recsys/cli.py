"""The command line. Heavy imports are inside the commands, so that `--help` is quick."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

app = typer.Typer(
    help="Embedding tables for recommender models: how small can they get, and is the difference real?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(width=None if sys.stdout.isatty() else 170)  # a pipe has no width, and 80 would cut tables
err = Console(stderr=True)

ConfigArgument = Annotated[Path, typer.Argument(help="experiment as YAML", show_default=False)]
ConfigsArgument = Annotated[list[Path], typer.Argument(help="experiments as YAML; the first is the baseline")]
RunArgument = Annotated[Path, typer.Argument(help="folder of a finished run", show_default=False)]
DataOption = Annotated[
    str | None, typer.Option("--data", help="path or URL to read instead of the config's data.path")
]
OnOption = Annotated[
    Path | None,
    typer.Option("--on", help="finished prepared folder to use, such as one that was appended to"),
]
PreparedOption = Annotated[Path, typer.Option("--prepared", help="where prepared data is kept")]
RunsOption = Annotated[Path, typer.Option("--runs", help="where runs are kept")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="training seeds per arm")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help="runs at once; default: one per core")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
PREPARED, RUNS = Path("prepared"), Path("runs")


class Show(Protocol):
    """Progress of a stage: finished, of how many if known, and a remark."""

    def __call__(self, stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        """Show it."""


PrepareProgress = Callable[[str, int, int | None, int | None], None]  # recsys_pipelines.runner.Progress


@app.command()
def prepare(
    config: ConfigArgument,
    data: DataOption = None,
    append: Annotated[
        Path | None,
        typer.Option(help="prepared folder to append the rows to: its codes stay, and its vocabularies grow"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="prepare on Ray, with so many tasks at once")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: started on this machine")] = None,
    prepared: PreparedOption = PREPARED,
    as_json: JsonOption = False,
) -> None:
    """Read the source, fit the features and write shards; does nothing when nothing changed."""
    from recsys.config import load
    from recsys_pipelines.prepare import Prepared
    from recsys_pipelines.prepare import prepare as run_prepare

    experiment = load(config, data)
    base = None if append is None else Prepared.open(append)
    with _bars() as show, _runner(workers, address) as runner:
        finished = run_prepare(
            experiment.data, experiment.features, prepared, _preparing(show), runner=runner, base=base
        )
    manifest = finished.manifest
    if as_json:
        return _print_json({"path": str(finished.path), **manifest})
    out.print(f"[bold]{finished.path}[/bold]")
    added = f" + {manifest['rows_added']:,} added" if manifest["rows_added"] else ""
    out.print(
        f"{manifest['rows_in']:,} rows in{added} = {manifest['rows_out']:,} out + "
        f"{manifest['quarantined']:,} quarantined"
    )
    table = Table("split", "rows", "positive")
    for name, counts in manifest["splits"].items():
        table.add_row(name, f"{counts['rows']:,}", f"{counts['positives']:,}")
    out.print(table)


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
        Literal["rowwise_adagrad", "adagrad", "sgd"],
        typer.Option(help="whose state is counted; column_wise needs an elementwise one"),
    ] = "rowwise_adagrad",
    on: OnOption = None,
    prepared: PreparedOption = PREPARED,
    as_json: JsonOption = False,
) -> None:
    """Print the planned tables: rows and bytes by feature, collisions of training's ids, bytes by rank."""
    from recsys.config import load
    from recsys.table_report import grids, report_tables
    from recsys_pipelines.batches import Rows

    experiment = load(config, data)
    with _bars() as show:
        ready = _ready(experiment, prepared, on, show)
    ready.verify()
    report = report_tables(experiment, Rows.load(ready.path, "train"), ranks, sharding, optimizer)
    if as_json:
        return _print_json(report.to_dict())
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
    as_json: JsonOption = False,
) -> None:
    """Train one run and evaluate it on the test rows; a finished run is shown as it is."""
    from recsys.config import load
    from recsys.training.run import train as run_train

    experiment = load(config, data)
    if seed is not None:
        experiment = experiment.replace({"training.seed": seed})
    with _bars() as show:
        ready = _ready(experiment, prepared, on, show)

        def report(entry: dict[str, Any]) -> None:
            err.print(
                f"epoch {entry['epoch']:.2f}  train loss {entry['train_loss']:.4f}  "
                f"validation AUC {entry['validation_auc']:.4f}  logloss {entry['validation_logloss']:.5f}"
            )

        run = run_train(experiment, ready, runs, report, show)
    if as_json:
        return _print_json({"path": str(run.path), **run.metrics})
    out.print(f"[bold]{run.path}[/bold]  {run.metrics['bytes']['total']:,} bytes of tables")
    _print_metrics({"validation": run.metrics["validation"], "test": run.metrics["test"]})


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
    from recsys.scoring import score_file, score_split, unknown_ids
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
        return _print_json(metrics)
    _print_metrics({str(path or "test"): metrics})


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
    from recsys.scoring import predict_file
    from recsys.training.run import Run

    counts = predict_file(Run.open(run), path, output)
    if as_json:
        return _print_json({"path": str(output), **counts})
    out.print(
        f"{output}: {counts['rows_in']:,} rows in = {counts['rows_scored']:,} scored "
        f"+ {counts['quarantined']:,} quarantined; {sum(counts['unknown_ids'].values()):,} ids outside a vocabulary"
    )


@app.command()
def compare(
    configs: ConfigsArgument,
    seeds: SeedsOption = 5,
    budgets: Annotated[
        str,
        typer.Option(help="compare every config at each of these, e.g. '100%,30%,10%,3%' of the full table"),
    ] = "",
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("report.html"),
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what is missing, pair predictions row by row, and say which arm is smaller and which better."""
    from recsys.comparing import run_comparison, with_budgets
    from recsys.config import load

    wanted = [budget.strip() for budget in budgets.split(",") if budget.strip()]
    arms = with_budgets([load(config, data) for config in configs], wanted)
    with _bars() as show:
        result = run_comparison(arms, seeds, runs, prepared, jobs, show, prepare_progress=_preparing(show))
    _finish(result, report, as_json)


@app.command()
def demo(
    seeds: SeedsOption = 3,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("demo-report.html"),
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare five table schemes on a generated click log whose best possible AUC is known."""
    from importlib.resources import as_file, files

    recipes = ("full", "small_dimension", "hash", "quotient_remainder", "unified")
    with as_file(files("recsys_configs") / "generated") as folder:
        compare(
            [folder / f"{name}.yaml" for name in recipes],
            seeds,
            "",
            None,
            prepared,
            runs,
            report,
            jobs,
            as_json,
        )


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the versions of torch, torchrec, fbgemm and ray, and name the cure of a wrong pair."""
    from recsys.doctor import diagnose

    found = diagnose()
    if as_json:
        _print_json(found.to_dict())
    else:
        table = Table("package", "version")
        for name, number in found.versions.items():
            table.add_row(name, number or "[dim]not installed[/dim]")
        out.print(table)
        for problem in found.problems:
            out.print(f"[red]✗[/red] {problem}")
        if not found.problems:
            out.print("[green]✓[/green] torch, torchrec and fbgemm belong together")
    if found.problems:
        raise typer.Exit(1)


@app.command()
def inspect(
    prepared: Annotated[Path, typer.Argument(help="folder of prepared data", show_default=False)],
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("inspect-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Say what a prepared set holds, feature by feature: ids, skew, missing and unknown values, label rates."""
    from recsys.data_report import inspection_sheets, inspection_summary, write_inspection
    from recsys_pipelines.inspection import inspect as run_inspection
    from recsys_pipelines.prepare import Prepared

    ready = Prepared.open(prepared)
    ready.verify()
    with _bars() as show:
        found = run_inspection(ready, lambda rows, of: show("inspect", rows, of))
    write_inspection(found, report)
    if as_json:
        return _print_json({**found.to_dict(), "report": str(report)})
    _print_sheets(inspection_summary(found), inspection_sheets(found), report)


@app.command()
def drift(
    a: Annotated[Path, typer.Argument(help="prepared folder of reference", show_default=False)],
    b: Annotated[Path, typer.Argument(help="prepared folder to compare with it", show_default=False)],
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("drift-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Compare the training rows of two prepared sets: population stability, new and vanished ids, label rates."""
    from recsys.data_report import drift_sheets, drift_summary, write_drift
    from recsys_pipelines.drift import compare_sets
    from recsys_pipelines.prepare import Prepared

    sets = Prepared.open(a), Prepared.open(b)
    for ready in sets:
        ready.verify()
    with _bars() as show:
        found = compare_sets(*sets, lambda rows, of: show("compare", rows, of))
    write_drift(found, report)
    if as_json:
        return _print_json({**found.to_dict(), "summary": drift_summary(found), "report": str(report)})
    _print_sheets(drift_summary(found), drift_sheets(found), report)


@app.command()
def ope(
    log: Annotated[Path, typer.Argument(help="logged actions, Parquet or CSV", show_default=False)],
    policy: Annotated[
        str | None,
        typer.Option(
            help="'uniform', or a file of row_id, probability and, where known, one column per action"
        ),
    ] = None,
    policy_log: Annotated[
        Path | None,
        typer.Option(help="log of the policy itself: its action frequencies (without --policy) and rewards"),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="rows of the log to use, column=value")] = None,
    policy_where: Annotated[
        list[str] | None, typer.Option(help="rows of --policy-log to use, column=value")
    ] = None,
    action: Annotated[str | None, typer.Option(help="its column; default: action, item_id")] = None,
    reward: Annotated[str | None, typer.Option(help="its column; default: reward, click, label")] = None,
    propensity: Annotated[
        str | None, typer.Option(help="its column; default: propensity, propensity_score, pscore")
    ] = None,
    position: Annotated[str | None, typer.Option(help="place in a slate; default: position, if any")] = None,
    user: Annotated[
        str | None, typer.Option(help="whose rows are dependent; default: user, user_id, if any")
    ] = None,
    row_id: Annotated[str | None, typer.Option(help="default: row_id, else the number of the row")] = None,
    estimator: Annotated[
        str | None, typer.Option(help="the verdict's; default: dr, snips without all actions")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="on weights, clipped and switch-dr; default: √rows")
    ] = None,
    method: Annotated[
        Literal["normal", "bootstrap"], typer.Option("--intervals", help="how they are made")
    ] = "normal",
    level: Annotated[float, typer.Option(help="of the intervals")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="of folds and bootstrap")] = 0,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("ope-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Estimate what another policy would have earned on logged actions, or say why the log cannot tell."""
    from recsys.evaluation.off_policy import evaluate_policy
    from recsys.evaluation.off_policy_data import frequencies, uniform
    from recsys.off_policy_log import read_log, read_policy
    from recsys.off_policy_report import on_policy, ope_dict, ope_sheets, ope_summary, write_ope

    if policy is None and policy_log is None:
        raise ValueError("no policy to judge: give --policy uniform, --policy FILE or --policy-log FILE")
    columns = {
        "action": action,
        "reward": reward,
        "propensity": propensity,
        "position": position,
        "user": user,
        "row_id": row_id,
    }
    logged = read_log(log, columns, where or ())
    own = None if policy_log is None else read_log(policy_log, columns, policy_where or ())
    if policy is not None:
        target = uniform(logged) if policy == "uniform" else read_policy(Path(policy), logged)
    else:
        assert own is not None
        target = frequencies(logged, own)
    truth = None if own is None else on_policy(own)
    result = evaluate_policy(
        logged, target, primary=estimator, threshold=threshold, method=method, level=level, seed=seed
    )
    write_ope(result, report, truth)
    if as_json:
        return _print_json({**ope_dict(result, truth), "report": str(report)})
    _print_sheets(ope_summary(result, truth), ope_sheets(result, truth), report)


@app.command()
def abtest(
    assignments: Annotated[
        Path,
        typer.Argument(help="Parquet or CSV, a row per user, per user and day, or event", show_default=False),
    ],
    user: Annotated[str, typer.Option(help="column of the user, who was assigned at random")] = "user_id",
    variant: Annotated[str, typer.Option(help="column of the variant")] = "variant",
    control: Annotated[
        str | None, typer.Option(help="variant to compare with; default: 'control', or the first by name")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="column whose total per user is compared")] = None,
    ratio: Annotated[
        list[str] | None, typer.Option(help="ratio of two columns' totals, such as clicks/impressions")
    ] = None,
    covariate: Annotated[
        str | None,
        typer.Option(help="column from before the test, one value per user: less variance (CUPED)"),
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="column of the day: intervals that may be looked at every day")
    ] = None,
    planned_days: Annotated[
        int, typer.Option(min=1, help="days planned beforehand: there the daily intervals are narrowest")
    ] = 14,
    expected_share: Annotated[
        str | None, typer.Option(help="planned split, control first, such as 50:50; default: equal")
    ] = None,
    worthwhile: Annotated[
        float | None,
        typer.Option(help="least relative lift that matters, such as 0.02, to tell none from unknown"),
    ] = None,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("abtest-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Judge an online A/B test from its assignment log; status 1 when its sample ratio is broken."""
    from recsys.evaluation.online import analyse, expected_shares
    from recsys.evaluation.online_log import Target, read_assignments
    from recsys.online_report import online_json, online_sheets, summary, verdicts, write_online_report

    targets = [Target(name) for name in metric or []]
    for text in ratio or []:
        top, slash, bottom = text.partition("/")
        if not (top.strip() and slash and bottom.strip()):
            raise ValueError(f"ratio {text!r}: give two columns, such as clicks/impressions")
        targets.append(Target(top.strip(), bottom.strip()))
    log = read_assignments(assignments, user, variant, targets, control, covariate, day)
    shares = expected_shares(expected_share, log.variants)
    found = analyse(log, shares, worthwhile=worthwhile, planned_days=planned_days)
    write_online_report(found, report, assignments.name)
    if as_json:
        _print_json({**online_json(found), "report": str(report)})
    else:
        for sheet in online_sheets(found):
            if not sheet.folded:
                out.print(sheet.grid())
        for line in verdicts(found):
            out.print(line, markup=False, highlight=False)
        out.print(summary(found), style="bold", markup=False, highlight=False)
        out.print(f"report: [bold]{report.resolve()}[/bold]", soft_wrap=True)
    if not found.sample_ratio.passed:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; mistakes in the input end as one clear message and exit status 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("RECSYS_TRACEBACK"):
            raise
        if "--json" in sys.argv:
            _print_json({"error": str(error)})
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _ready(experiment: Any, root: Path, on: Path | None, show: Show) -> Any:
    """The prepared set of an experiment: the one that is named, or what its data give."""
    from recsys_pipelines.prepare import Prepared, prepare

    if on is None:
        return prepare(experiment.data, experiment.features, root, _preparing(show))
    named = Prepared.open(on)
    named.require_same(experiment.data, experiment.features)
    return named


@contextmanager
def _runner(workers: int | None, address: str | None) -> Iterator[Any]:
    """Where a preparation runs: threads, or Ray when a number of workers or a cluster is given."""
    if workers is None and address is None:
        yield None
        return
    try:
        from recsys_pipelines.cluster import RayData, ray_session
    except ImportError:
        raise ValueError(
            "--workers and --address need Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    with ray_session(workers or 1, address):
        yield RayData(workers or 1)


def _preparing(show: Show) -> PrepareProgress:
    """Progress of a preparation: rows a second, and bytes where they are known."""
    started: dict[str, float] = {}
    last = time.monotonic()

    def report(stage: str, rows: int, of: int | None, size: int | None) -> None:
        nonlocal last
        start, last = started.setdefault(stage, last), time.monotonic()
        rate = f"{rows / max(last - start, 1e-9):,.0f} rows/s"
        show(stage, rows, of, rate if size is None else f"{rate}, {size / 1e6:,.0f} MB")

    return report


@contextmanager
def _bars() -> Iterator[Show]:
    """Progress on standard error: one line per stage, `show(stage, finished, of, detail)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, finished: int, of: int | None, detail: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=of, detail=detail)
            progress.update(tasks[stage], completed=finished, total=of, detail=detail)

        try:
            yield show
        except KeyboardInterrupt:
            err.print("interrupted; what was finished is kept, and the same command goes on from there")
            raise
        except BrokenProcessPool:
            raise ValueError(
                "a worker process was killed, most likely for want of memory; what was finished is kept: "
                "run the same command again with --jobs 1"
            ) from None


def _finish(result: Any, report: Path, as_json: bool) -> None:
    from recsys.report import summary, table_rows, verdict, write_report

    write_report(result, report)
    if as_json:
        return _print_json(
            {
                **result.to_dict(),
                "summary": summary(result),
                "verdict": verdict(result),
                "report": str(report),
            }
        )
    rows = table_rows(result)
    known = rows[0]["auc_below_best"] is not None
    headers = [
        "arm",
        "bytes",
        "of full",
        "AUC",
        "interval",
        "logloss",
        "interval",
        *(["below best AUC"] if known else []),
        "ΔAUC",
    ]
    table = Table(*headers, "verdict", title=f"baseline: {result.overall.baseline}")
    for row in rows:
        change = row["auc_change"]
        table.add_row(
            row["arm"],
            f"{row['bytes']['total']:,}",
            f"{row['share']:.1%}",
            f"{row['auc']:.4f}",
            "{:.4f}–{:.4f}".format(*row["auc_interval"]),
            f"{row['logloss']:.5f}",
            "{:.5f}–{:.5f}".format(*row["logloss_interval"]),
            *([f"{row['auc_below_best']:.4f}"] if known else []),
            f"{change.estimate:+.4f}" if change else "",
            change.verdict if change else "baseline",
        )
    out.print(table)
    kinds = Table(
        "arm", "weights", "networks", "optimiser", "vocabularies", "bytes", "to serve", title="resident bytes"
    )
    for row in rows:
        counts = row["bytes"]
        order = ("parameters", "dense", "optimizer", "vocabulary", "total", "serving")
        kinds.add_row(row["arm"], *(f"{counts[kind]:,}" for kind in order))
    out.print(kinds)
    for note in sorted({change.note for change in result.overall.differences if change.note}):
        out.print(note, style="yellow")
    for reason in result.left_out.values():
        out.print(f"left out: {reason}", style="yellow", markup=False, highlight=False)
    out.print(summary(result), markup=False, highlight=False)
    out.print(f"report: [bold]{report.resolve()}[/bold]", soft_wrap=True)


def _print_metrics(columns: dict[str, dict[str, Any]]) -> None:
    table = Table("metric", *columns)
    for name in next(iter(columns.values())):
        values = [column.get(name) for column in columns.values()]
        table.add_row(name, *("–" if v is None else f"{v:.6g}" for v in values))
    out.print(table)


def _print_sheets(summary: str, sheets: Any, report: Path) -> None:
    for sheet in sheets:
        out.print(sheet.grid())
    out.print(summary, markup=False, highlight=False)
    out.print(f"report: [bold]{report.resolve()}[/bold]", soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
