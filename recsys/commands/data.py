"""Commands on data: sources, prepare, inspect, drift."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from recsys.commands.options import (
    PREPARED,
    AddressOption,
    ConfigArgument,
    DataOption,
    DetailsOption,
    JsonOption,
    PreparedOption,
    ReportOption,
)
from recsys.console import (
    app,
    bars,
    out,
    preparing,
    print_json,
    print_place,
    print_result,
    table,
    with_doubts,
)


@app.command(rich_help_panel="Data")
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
    address: AddressOption = None,
    prepared: PreparedOption = PREPARED,
    as_json: JsonOption = False,
) -> None:
    """Read the source, fit the features and write shards; does nothing when nothing changed."""
    from recsys.config import load_experiment
    from recsys_pipelines.preparation.prepare import prepare as run_prepare
    from recsys_pipelines.preparation.prepared import Prepared

    experiment = load_experiment(config, data)
    base = None if append is None else Prepared.open(append)
    with bars(prepared) as show, _runner(workers, address) as runner:
        finished = run_prepare(
            experiment.data, experiment.features, prepared, preparing(show), runner=runner, base=base
        )
    manifest = with_doubts(finished).manifest
    if as_json:
        return print_json({"path": str(finished.path), **manifest.model_dump(mode="json")})
    print_place("", finished.path)
    added = f" + {manifest.rows_added:,} added" if manifest.rows_added else ""
    out.print(
        f"{manifest.rows_in:,} rows in{added} = {manifest.rows_out:,} out + "
        f"{manifest.quarantined:,} quarantined"
    )
    grid = table("split", "rows", "positive")
    for name, counts in manifest.splits.items():
        grid.add_row(name, f"{counts.rows:,}", f"{counts.positives:,}")
    out.print(grid)


@app.command(rich_help_panel="Data")
def sources(as_json: JsonOption = False) -> None:
    """List the sources that data.source can name, and the files that data.path then names."""
    from recsys_pipelines.sources.catalogue import CATALOGUE

    if as_json:
        return print_json({name: entry._asdict() for name, entry in CATALOGUE.items()})
    grid = table("source", "data set", "data.path")
    for name, entry in CATALOGUE.items():
        grid.add_row(name, *map(escape, entry))
    out.print(grid)


@app.command(rich_help_panel="Data")
def inspect(
    prepared: Annotated[Path, typer.Argument(help="folder of prepared data", show_default=False)],
    report: ReportOption = Path("inspect-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a prepared set holds, feature by feature: ids, skew, missing and unknown values, label rates."""
    from recsys.reports.data import inspection_sheets, inspection_summary, write_inspection
    from recsys_pipelines.inspection.inspect import inspect as run_inspection
    from recsys_pipelines.preparation.prepared import Prepared

    ready = Prepared.open(prepared)
    ready.verify()
    with bars() as show:
        inspection = run_inspection(ready, show)
    write_inspection(inspection, report)
    if as_json:
        return print_json({**inspection.to_dict(), "report": str(report)})
    splits, *features = inspection_sheets(inspection)
    print_result(inspection_summary(inspection), [*features, splits], details, report=report)


@app.command(rich_help_panel="Data")
def drift(
    a: Annotated[Path, typer.Argument(help="prepared folder of reference", show_default=False)],
    b: Annotated[Path, typer.Argument(help="prepared folder to compare with it", show_default=False)],
    report: ReportOption = Path("drift-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the training rows of two prepared sets: population stability, new and vanished ids, label rates."""
    from recsys.reports.data import drift_sheets, drift_summary, write_drift
    from recsys_pipelines.inspection.drift import compare_sets
    from recsys_pipelines.preparation.prepared import Prepared

    sets = Prepared.open(a), Prepared.open(b)
    for ready in sets:
        ready.verify()
    with bars() as show:
        result = compare_sets(*sets, show)
    write_drift(result, report)
    if as_json:
        return print_json({**result.to_dict(), "summary": drift_summary(result), "report": str(report)})
    print_result(drift_summary(result), drift_sheets(result), details, report=report)


@contextmanager
def _runner(workers: int | None, address: str | None) -> Iterator[Any]:
    """Yield what a preparation runs on: threads, or Ray when a number of workers or a cluster is given."""
    if workers is None and address is None:
        yield None
        return
    try:
        from recsys_pipelines.preparation.on_ray import RayData
        from recsys_pipelines.preparation.session import ray_session
    except ImportError:
        raise ValueError(
            "--workers and --address need Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    with ray_session(workers or 1, address):
        yield RayData(workers or 1)
