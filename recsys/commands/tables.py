"""Commands on the tables of an experiment: tables, compress."""

from dataclasses import asdict
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
    OnOption,
    PreparedOption,
    ReportOption,
    RunsOption,
)
from recsys.console import app, bars, out, print_json, print_place, print_sheets, ready


@app.command(rich_help_panel="Tables")
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
    from recsys.config import load_experiment
    from recsys.planning import report_tables
    from recsys.reports.tables import grids
    from recsys.training.distributed import default_device
    from recsys.training.size import network_bytes
    from recsys_pipelines.batches.loader import Rows

    experiment = load_experiment(config, data, on)
    with bars() as show:
        prepared_set = ready(experiment, prepared, on, show)
    prepared_set.verify()
    rows = Rows.load(prepared_set.path, "train")
    report = report_tables(experiment, rows, ranks, sharding, optimizer, default_device())
    network = network_bytes(experiment, rows.features)
    if as_json:
        return print_json({**report.to_dict(), "network": asdict(network)})
    for grid in grids(report, network):
        out.print(grid)


@app.command(rich_help_panel="Tables")
def compress(
    config: ConfigArgument,
    budget: Annotated[
        str, typer.Option(help="all resident bytes, such as 10% of the full table's, or 64MB")
    ] = "10%",
    seeds: Annotated[
        int, typer.Option(min=0, help="training seeds per arm of the comparison; 0: no comparison")
    ] = 5,
    effect: Annotated[
        float, typer.Option(help="loss in AUC that would matter: not worse than it, or undecided")
    ] = 0.002,
    dtype: Annotated[
        Literal["fp32", "fp16", "fp8", "int8", "int4"], typer.Option(help="of the exported tables")
    ] = "fp32",
    workers: Annotated[
        int,
        typer.Option(min=1, help="genomes evaluated at once, as Ray tasks; 1: in this process, without Ray"),
    ] = 1,
    address: AddressOption = None,
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    report: ReportOption = Path("compress-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Make the tables of a config small: learn what to keep, search rows and widths, train, compare and export."""
    from recsys.compression.search import run_compression
    from recsys.config import load_experiment
    from recsys.reports.compression import compression_sheets, summary, write_compression
    from recsys.training.loop import Watch

    experiment = load_experiment(config, data)
    with bars() as show:
        prepared_set = ready(experiment, prepared, None, show)
        result = run_compression(
            experiment,
            budget,
            prepared_set,
            (runs, prepared),
            _evaluator(workers, address),
            seeds,
            jobs,
            effect,
            dtype,
            Watch(progress=lambda stage, *rest: show(f"learner, {stage}", *rest)),
            show,
        )
    write_compression(result, report)
    if as_json:
        return print_json({**result.to_dict(), "summary": summary(result), "report": str(report)})
    print_sheets(summary(result), [sheet for sheet in compression_sheets(result) if not sheet.folded], report)
    print_place("compact experiment", result.compact["evolution"])
    if result.artefact is not None:
        print_place("artefact", result.artefact)


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
