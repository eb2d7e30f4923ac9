"""Commands that compare: compare, demo."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.commands.options import (
    PREPARED,
    RUNS,
    DataOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    ReportOption,
    RunsOption,
    SeedsOption,
)
from recsys.console import app, bars, out, preparing, print_json, print_place, with_doubts

SEEDS = 5


@app.command(rich_help_panel="Judging")
def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH...",
            help="experiments as YAML, which are trained; or finished runs and files of predictions (Parquet, Arrow, "
            "CSV, TSV: row_id, label, prediction, perhaps user_id), where one NAME's are seeds of one arm. The first is "
            "the baseline",
            show_default=False,
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="name of the arm to compare with, such as hash, or hash@10% of --budgets; default: the first"
        ),
    ] = None,
    effect: Annotated[
        float | None,
        typer.Option(help="smallest difference in AUC that matters: for power, and a verdict of not worse"),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            help="compare within slices, repeatable: FEATURE, new:FEATURE, frequency:FEATURE or time; of files, a column",
        ),
    ] = None,
    replicates: Annotated[
        int | None, typer.Option(min=100, help="of the bootstrap; default: evaluation.replicates, 1000")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="of the intervals; default: evaluation.level, 0.95")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="of experiments: training seeds per arm; default: 5")
    ] = None,
    budgets: Annotated[
        str,
        typer.Option(
            help="of experiments: compare each at each of these, e.g. '100%,30%,10%,3%' of the full table"
        ),
    ] = "",
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    row_id: Annotated[str | None, typer.Option(help="of files: its column; default: row_id")] = None,
    user: Annotated[
        str | None, typer.Option(help="of files: whose rows are dependent; default: user_id, if any")
    ] = None,
    label: Annotated[str | None, typer.Option(help="of files: its column, 0 or 1; default: label")] = None,
    prediction: Annotated[str | None, typer.Option(help="of files: its column; default: prediction")] = None,
    time: Annotated[str | None, typer.Option(help="of files: column of the time, to follow the days")] = None,
    report: ReportOption = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Pair predictions row by row and say which arm is better, after training what is missing."""
    from recsys.comparison.predictions import are_configs

    of_files = {"row-id": row_id, "user": user, "label": label, "prediction": prediction, "time": time}
    of_configs = {"seeds": seeds, "budgets": budgets or None, "data": data, "jobs": jobs}
    if are_configs(arms):
        _refuse(of_files, "files of predictions", "experiments")
        settings = {"evaluation.replicates": replicates, "evaluation.level": level}
        experiments = _experiments(arms, data, baseline, settings)
        return _compare_configs(
            experiments,
            seeds or SEEDS,
            budgets,
            prepared,
            runs,
            report,
            jobs,
            as_json,
            effect,
            slices or (),
            baseline,
        )
    _refuse(of_configs, "experiments", "finished runs and files")

    from recsys.comparison.judge import Options
    from recsys.comparison.predictions import Columns

    options = Options(
        baseline=baseline,
        replicates=replicates or Options.replicates,
        level=Options.level if level is None else level,
        effect=effect,
        slices=tuple(slices or ()),
        time=time,
        columns=Columns(
            row_id or Columns.row_id, label or Columns.label, prediction or Columns.prediction, user
        ),
    )
    _compare_predictions(arms, options, report, as_json)


@app.command(rich_help_panel="Judging")
def demo(
    seeds: SeedsOption = 3,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    report: ReportOption = Path("demo-report.html"),
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare five table schemes on a generated click log whose best possible AUC is known."""
    from importlib.resources import as_file, files

    from recsys.config import load

    recipes = ("full", "small_dimension", "hash", "quotient_remainder", "unified")
    with as_file(files("recsys_configs") / "generated") as folder:
        experiments = [load(folder / f"{name}.yaml") for name in recipes]
        _compare_configs(experiments, seeds, "", prepared, runs, report, jobs, as_json)


def _refuse(options: Mapping[str, Any], of: str, given: str) -> None:
    if found := [f"--{name}" for name, value in options.items() if value is not None]:
        raise ValueError(f"{', '.join(found)}: of {of} only, and these are {given}; leave it out")


def _experiments(
    arms: Sequence[str], data: str | None, baseline: str | None, settings: Mapping[str, Any]
) -> list[Any]:
    """The configurations, the baseline first; whether there is such a one is checked with their budgets."""
    from recsys.comparison.predictions import named
    from recsys.config import load

    known = {key: value for key, value in settings.items() if value is not None}
    experiments = []
    for argument in arms:
        name, path = named(argument)
        changes = known if name is None else {**known, "name": name}
        experiment = load(path, data)
        experiments.append(experiment.replace(changes, where=str(path)) if changes else experiment)
    first = (baseline, None if baseline is None else baseline.rpartition("@")[0])
    return sorted(experiments, key=lambda experiment: experiment.name not in first)


def _compare_configs(
    experiments: Sequence[Any],
    seeds: int,
    budgets: str,
    prepared: Path,
    runs: Path,
    report: Path,
    jobs: int | None,
    as_json: bool,
    effect: float | None = None,
    slices: Sequence[str] = (),
    baseline: str | None = None,
) -> None:
    from recsys.comparison.budgets import with_budgets
    from recsys.comparison.experiments import run_comparison

    wanted = [budget.strip() for budget in budgets.split(",") if budget.strip()]
    with bars() as show:
        result = run_comparison(
            with_budgets(experiments, wanted),
            seeds,
            runs,
            prepared,
            jobs,
            show,
            prepare_progress=preparing(show),
            effect=effect,
            slices=slices,
            baseline=baseline,
        )
    for prepared_set in {arm.runs[0].prepared_path: arm.runs[0].prepared() for arm in result.arms}.values():
        with_doubts(prepared_set)
    _finish(result, report, as_json)


def _compare_predictions(arguments: Sequence[str], options: Any, report: Path, as_json: bool) -> None:
    from recsys.comparison.judge import judge
    from recsys.comparison.predictions import find_arms
    from recsys.reports.bytes import bytes_sheets
    from recsys.reports.comparison import bytes_by_arm, comparison_json, summary, verdicts, write_comparison

    found = find_arms(arguments)
    judged = judge(found, options)
    write_comparison(judged, found, report)
    if as_json:
        return print_json({**comparison_json(judged, found), "report": str(report)})
    _print_judged(judged, verdicts(judged))
    for sheet in bytes_sheets(bytes_by_arm(found)):
        out.print(sheet.grid())
    out.print(summary(judged), style="bold", markup=False, highlight=False)
    print_place("report", report.resolve())


def _print_judged(judged: Any, lines: Sequence[str]) -> None:
    """What the data can find, what was found, and the tables of it."""
    from recsys.reports.comparison import main_sheets, power_lines, slice_sheets

    for line in [*power_lines(judged), *lines]:
        out.print(line, markup=False, highlight=False)
    for sheet in [*main_sheets(judged), *slice_sheets(judged)]:
        out.print(sheet.grid())


def _finish(result: Any, report: Path, as_json: bool) -> None:
    from recsys.reports.bytes import bytes_sheets
    from recsys.reports.experiments import baseline_lines, summary, table_rows, verdict, write_report

    write_report(result, report)
    if as_json:
        return print_json(
            {
                **result.to_dict(),
                "summary": summary(result),
                "verdict": verdict(result),
                "report": str(report),
            }
        )
    _print_judged(result.judged, verdict(result))
    rows = table_rows(result)
    known = rows[0]["auc_below_best"] is not None
    by_budget = bool(result.by_budget)
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
        "verdict",
        *(["ΔAUC at its budget", "verdict there"] if by_budget else []),
    ]
    table = Table(*headers, title=f"baseline: {result.overall.baseline}")
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
            change.verdict_word if change else "baseline",
            *(_at_budget(row) if by_budget else ()),
        )
    out.print(table)
    for sheet in bytes_sheets({row["arm"]: row["bytes"] for row in rows}):
        out.print(sheet.grid())
    for reason in result.left_out.values():
        out.print(f"left out: {reason}", style="yellow", markup=False, highlight=False)
    for line in baseline_lines(result):
        out.print(line, style="yellow", markup=False, highlight=False)
    out.print(summary(result), markup=False, highlight=False)
    print_place("report", report.resolve())


def _at_budget(row: Mapping[str, Any]) -> tuple[str, str]:
    """The difference of an arm from the baseline of its budget, and the verdict on it."""
    change = row["auc_change_at_budget"]
    if change is None:
        return "", "baseline" if row["is_baseline_at_budget"] else ""
    return f"{change.estimate:+.4f}", change.verdict_word
