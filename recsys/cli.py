"""The command line. Heavy imports are inside the commands, so that `--help` is quick."""

import os
import sys
from importlib import import_module

import typer
from rich.table import Table

from recsys.console import JsonOption, app, err, out, print_json

for commands in (
    "data",
    "models",
    "checkpoints",
    "exporting",
    "tuning",
    "compression",
    "comparisons",
    "policies",
    "experiments",
):  # in the order of the help
    import_module(f"recsys.commands.{commands}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the versions of torch, torchrec, fbgemm and ray, and name the cure of a wrong pair."""
    from recsys.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(found.to_dict())
    else:
        table = Table("package", "version")
        for name, number in found.versions.items():
            table.add_row(name, number or "[dim]not installed[/dim]")
        out.print(table)
        for problem in found.problems:
            out.print(f"[red]✗[/red] {problem}")
        if not found.problems:
            out.print("[green]✓[/green] torch, torchrec and fbgemm belong together")
    if found.problems:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; mistakes in the input end as one clear message and exit status 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("RECSYS_TRACEBACK"):
            raise
        if "--json" in sys.argv:
            print_json({"error": str(error)})
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":  # of a Ray job, whose package is not installed
    main()
