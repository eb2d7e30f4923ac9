"""Command on a run that is to be served: export."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.commands.options import DtypeOption, JsonOption, RunArgument
from recsys.console import app, out, print_json, print_metrics, table


@app.command(rich_help_panel="Serving")
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--out", help="folder to write")],
    dtype: DtypeOption = "fp32",
    width: Annotated[
        int | None, typer.Option("--pca", help="narrow wider rows to this width; a multiple of 4")
    ] = None,
    checked: Annotated[
        bool, typer.Option("--check", help="score the run's test rows through it, beside the run's metrics")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run as a folder to serve from: tables in fewer bits, features and network, with checksums."""
    from recsys.serving.export import check, file_bytes
    from recsys.serving.export import export as write
    from recsys.training.run import Run

    finished = Run.open(run)
    artefact = write(finished, to, dtype, width)
    before, after = finished.metrics["bytes"], artefact.bytes.to_dict()
    metrics = {"run": finished.metrics["test"], "artefact": check(finished, to)} if checked else None
    if as_json:
        return print_json(
            {
                "path": str(to),
                "dtype": dtype,
                "bytes": after,
                "run_bytes": before,
                "file_bytes": file_bytes(to),
                "test": metrics,
            }
        )
    grid = table("resident bytes", "run", to.name, "times smaller")
    for kind in ("parameters", "vocabulary", "remaps", "codes", "dense", "statistics", "serving"):
        trained = before.get(kind, 0)  # of a run before codes were counted
        ratio = f"{trained / after[kind]:.2f}" if after[kind] else "–"
        grid.add_row(kind, f"{trained:,}", f"{after[kind]:,}", ratio)
    out.print(grid)
    if metrics is not None:
        print_metrics(metrics)
    out.print(f"{to}: {file_bytes(to):,} bytes on disk", soft_wrap=True, markup=False, highlight=False)
