"""Command that makes the tables of an experiment small: compress."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.commands.options import (
    PREPARED,
    RUNS,
    AddressOption,
    ConfigArgument,
    DataOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    ReportOption,
    RunsOption,
)
from recsys.console import app, bars, out, print_json, print_place, print_sheets, ready


@app.command(rich_help_panel="Tables")
def compress(
    config: ConfigArgument,
    budget: Annotated[
        str, typer.Option(help="all resident bytes, such as 10% of the full table's, or 64MB")
    ] = "10%",
    into: Annotated[
        Literal["auto", "coded", "unified", "compact"],
        typer.Option(
            help="coded: rows learned from teachers; unified: hashed rows, with teachers; auto: the better of both on "
            "validation; compact: a learner's masks, and evolution over rows and widths"
        ),
    ] = "auto",
    seeds: Annotated[
        int, typer.Option(min=0, help="training seeds per arm of the comparison; 0: no comparison")
    ] = 5,
    effect: Annotated[
        float, typer.Option(help="loss in AUC that would matter: not worse than it, or undecided")
    ] = 0.002,
    dtype: Annotated[
        Literal["fp32", "fp16", "fp8", "int8", "int4"], typer.Option(help="of the exported tables")
    ] = "fp32",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what time, memory and disk it takes, and train nothing")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="--into compact: genomes at once, as Ray tasks; 1: in this process, without Ray"
        ),
    ] = 1,
    address: AddressOption = None,
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    report: ReportOption = Path("compress-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Make the tables of a config small: learn what to keep, train, compare and export."""
    from recsys.config import load_experiment

    experiment = load_experiment(config, data)
    options = {"seeds": seeds, "jobs": jobs, "effect": effect, "dtype": dtype}
    with bars() as show:
        prepared_set = ready(experiment, prepared, None, show)
        if dry_run:
            cost = _cost(experiment, into, prepared_set, seeds, jobs)
        elif into == "compact":
            evaluator = _evaluator(workers, address)
            result: Any = _compacted(
                experiment, budget, prepared_set, (runs, prepared), evaluator, options, show
            )
        else:
            result = _distilled(
                experiment, budget, into, prepared_set, (runs, prepared), options, address, show
            )
    if dry_run:
        return _print_cost(cost, as_json)
    if into == "compact":
        from recsys.reports import compression as reports
    else:
        from recsys.reports import distillation as reports  # type: ignore[no-redef]
    reports.write_compression(result, report)
    if as_json:
        return print_json({**result.to_dict(), "summary": reports.summary(result), "report": str(report)})
    sheets = [sheet for sheet in reports.compression_sheets(result) if not sheet.folded]
    print_sheets(reports.summary(result), sheets, report)
    print_place("small experiment", result.experiment)
    if result.artefact is not None:
        print_place("artefact", result.artefact)


def _compacted(
    experiment: Any, budget: str, prepared: Any, roots: Any, evaluator: Any, options: Any, show: Any
) -> Any:
    from recsys.compression.search import run_compression
    from recsys.training.loop import Watch

    watch = Watch(progress=lambda stage, *rest: show(f"learner, {stage}", *rest))
    return run_compression(
        experiment, budget, prepared, roots, evaluator, **options, watch=watch, progress=show
    )


def _distilled(
    experiment: Any,
    budget: str,
    into: str,
    prepared: Any,
    roots: Any,
    options: Any,
    address: str | None,
    show: Any,
) -> Any:
    from recsys.compression.distillation import KINDS, run_distillation

    return run_distillation(experiment, budget, KINDS[into], prepared, roots, **options, progress=show)


def _cost(experiment: Any, into: str, prepared: Any, seeds: int, jobs: int | None) -> Any:
    from recsys.compression.cost import expected_cost
    from recsys.compression.distillation import KINDS

    if into == "compact":
        raise ValueError(
            "--dry-run knows what coded and unified students take, not --into compact: leave one out"
        )
    at_once = jobs or max(1, (os.cpu_count() or 1) // experiment.training.num_threads)
    return expected_cost(experiment, KINDS[into], prepared, seeds, at_once)


def _print_cost(cost: Any, as_json: bool) -> None:
    if as_json:
        return print_json(cost.to_dict())
    for step, number in cost.runs.items():
        out.print(f"{number:4d} {step}", highlight=False)
    out.print(
        f"at most {cost.seconds / 60:,.0f} min on this machine, {cost.memory / 1e9:.1f} GB of memory, "
        f"{cost.disk / 1e9:.2f} GB of disk; tables of {cost.peak_table_bytes:,} bytes while teachers train",
        highlight=False,
    )


def _evaluator(workers: int, address: str | None) -> Any:
    """Return what evaluates genomes: this process, or tasks on Ray."""
    if workers == 1 and address is None:
        from recsys.compression.supernet import evaluator

        return evaluator
    try:
        from recsys.compression.supernet_on_ray import ray_evaluator
    except ImportError:
        raise ValueError(
            "recsys compress with several workers needs Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    return partial(ray_evaluator, workers=workers, address=address)
