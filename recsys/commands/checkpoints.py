"""Command on what a run can go on from: checkpoints."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recsys.commands.options import JsonOption
from recsys.console import app, err, out, print_json, table


@app.command(rich_help_panel="Training")
def checkpoints(
    run: Annotated[Path, typer.Argument(help="folder of a run, finished or not", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """List a run's checkpoints and verify them; exit status 1 when one is damaged, whose file is named."""
    from recsys.training.store import listed

    items = listed(run)
    if not items:
        raise ValueError(f"{run}: no checkpoints: not the folder of a run, or one that has saved nothing yet")
    if as_json:
        print_json({"checkpoints": [asdict(item) for item in items]})
    else:
        grid = table("checkpoint", "step", "epoch", "rows", "bytes", "holds", "best", "state")
        for item in items:
            holds = "–" if item.damage else "everything" if item.base is None else f"changes of {item.base}"
            numbers = ((item.step, ","), (item.epoch, ".4g"), (item.rows, ","))
            grid.add_row(
                item.name,
                *("–" if value is None else format(value, style) for value, style in numbers),
                f"{item.bytes:,}",
                holds,
                "best" if item.best else "",
                "[red]damaged[/red]" if item.damage else "[green]whole[/green]",
            )
        out.print(grid)
        for item in items:
            if item.damage:
                err.print("✗", item.damage, style="red", markup=False, highlight=False, soft_wrap=True)
    if any(item.damage for item in items):
        raise typer.Exit(1)
