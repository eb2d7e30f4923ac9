"""Commands that compare: compare, demo."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.console import (
    PREPARED,
    RUNS,
    ConfigsArgument,
    DataOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    RunsOption,
    SeedsOption,
    app,
    bars,
    out,
    preparing,
    print_json,
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
    with bars() as show:
        result = run_comparison(arms, seeds, runs, prepared, jobs, show, prepare_progress=preparing(show))
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


def _finish(result: Any, report: Path, as_json: bool) -> None:
    from recsys.report import summary, table_rows, verdict, write_report

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
