"""Command that answers requests from an exported folder: serve."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.console import app
from recsys.serving.server.limits import Limits


@app.command(rich_help_panel="Serving")
def serve(
    artefact: Annotated[
        Path | None, typer.Argument(help="exported folder, or a link to one; may be replaced by rename")
    ] = None,
    versions: Annotated[
        Path | None,
        typer.Option(
            "--versions", help="folder of exported folders: that named in its file `current`, or the newest"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; this machine alone reaches the default")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    reload_seconds: Annotated[
        float, typer.Option(min=0.05, help="in which each worker takes another version")
    ] = 5.0,
    max_body: Annotated[int, typer.Option(min=1, help="bytes of a request")] = Limits.body_bytes,
    max_rows: Annotated[int, typer.Option(min=1, help="rows of a request")] = Limits.rows,
    max_list: Annotated[int, typer.Option(min=1, help="elements of one list")] = Limits.list_length,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="requests at once in a worker; others get status 503")
    ] = Limits.in_flight,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="seconds for a body to arrive, and for its answer")
    ] = Limits.seconds,
) -> None:
    """Answer requests over HTTP from an exported folder: /predict, /rank, /metadata, /metrics, /healthz, /readyz."""
    from recsys_cython_ext.extras import require

    require("onnxruntime", "starlette", "uvicorn", "prometheus_client")
    from recsys.serving.server.processes import serve as answer
    from recsys.serving.server.versions import FolderOfVersions, OneFolder, Source

    if (artefact is None) == (versions is None):
        raise ValueError("name an exported folder, or a folder of them with --versions: one of the two")
    source: Source = OneFolder(artefact) if artefact is not None else FolderOfVersions(versions)  # type: ignore[arg-type]
    limits = Limits(max_body, max_rows, max_list, max_in_flight, timeout)
    answer(source, host, port, workers, limits, reload_seconds)
