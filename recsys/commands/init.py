"""Command on a log that nobody has described: init."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.commands.options import JsonOption
from recsys.console import app, out, print_json, print_place, warn


@app.command(rich_help_panel="Data")
def init(
    path: Annotated[
        str,
        typer.Argument(help="log: a file, a folder or a URL (.parquet, .csv, .inter, …)", show_default=False),
    ],
    label: Annotated[str | None, typer.Option(help="column of the label")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="from which value on the label's column is positive")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="column of the user, whose rows are dependent; none for none")
    ] = None,
    time: Annotated[str | None, typer.Option(help="column that orders rows; none for none")] = None,
    source: Annotated[str | None, typer.Option(help="how the log is read, as `recsys sources` lists")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", help="experiment to write; default: the log's name with .yaml, here"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="write over files that exist")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at a log, say what its columns seem to be and why, and write an experiment and a rival of it."""
    from recsys.reports.starting import columns_table, roles_table
    from recsys.starting.draft import draft_of, places_of
    from recsys.starting.guess import Flags, guess
    from recsys_cython_ext.files import write_text

    places = places_of(path, output, force)
    result = guess(path, Flags(label, threshold, user, time, source))
    draft = draft_of(result, places)
    for place, text in ((places.experiment, draft.text), (places.rival, draft.rival_text)):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(text, place)
    for warning in result.warnings:
        warn(warning)
    if as_json:
        written = {"experiment": str(places.experiment), "rival": str(places.rival)}
        return print_json({**result.to_dict(), **written})
    out.print(roles_table(result))
    out.print(columns_table(result))
    print_place("experiment", places.experiment)
    print_place("rival", places.rival)
    out.print(f"next: recsys compare {draft.commands}", markup=False, highlight=False, soft_wrap=True)
