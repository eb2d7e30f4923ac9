"""Command on the tables of an experiment: tables."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from recsys.commands.options import (
    PREPARED,
    ConfigArgument,
    DataOption,
    DetailsOption,
    JsonOption,
    OnOption,
    PreparedOption,
)
from recsys.console import app, bars, print_json, print_result, ready


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
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print the planned tables: rows and bytes by feature, collisions of training's ids, bytes by rank."""
    from recsys.config import load_experiment
    from recsys.planning import report_tables
    from recsys.reports.tables import tables_sheets, tables_summary
    from recsys.training.size import network_bytes
    from recsys_pipelines.batches.loader import Rows

    experiment = load_experiment(config, data, on)
    with bars(prepared) as show:
        prepared_set = ready(experiment, prepared, on, show)
    prepared_set.verify()
    rows = Rows.load(prepared_set.path, "train")
    report = report_tables(experiment, rows, ranks, sharding, optimizer)
    network = network_bytes(experiment, rows.features)
    if as_json:
        return print_json({**report.to_dict(), "network": asdict(network)})
    print_result(tables_summary(report), tables_sheets(report, network), details)
