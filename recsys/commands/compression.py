"""Command that makes tables small: compress."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.console import (
    PREPARED,
    RUNS,
    ConfigArgument,
    DataOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    RunsOption,
    app,
    bars,
    out,
    preparing,
    print_json,
    print_sheets,
)


@app.command()
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
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster that sees the same folders; default: started on this machine"),
    ] = None,
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("compress-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Make the tables of a config small: learn what to keep, search rows and widths, train, compare and export."""
    from recsys.compression.search import run_compression
    from recsys.config import load
    from recsys.reports.compression import compression_sheets, summary, write_compression
    from recsys.training.loop import Watch
    from recsys_pipelines.preparation.prepare import prepare as run_prepare

    experiment = load(config, data)
    with bars() as show:
        ready = run_prepare(experiment.data, experiment.features, prepared, preparing(show))
        found = run_compression(
            experiment,
            budget,
            ready,
            (runs, prepared),
            _evaluator(workers, address),
            seeds,
            jobs,
            effect,
            dtype,
            Watch(progress=lambda what, *rest: show(f"learner, {what}", *rest)),
            show,
        )
    write_compression(found, report)
    if as_json:
        return print_json({**found.to_dict(), "summary": summary(found), "report": str(report)})
    print_sheets(summary(found), [sheet for sheet in compression_sheets(found) if not sheet.folded], report)
    out.print(f"compact experiment: [bold]{found.compact['evolution']}[/bold]", soft_wrap=True)
    if found.artefact is not None:
        out.print(f"artefact: [bold]{found.artefact}[/bold]", soft_wrap=True)


def _evaluator(workers: int, address: str | None) -> Any:
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
