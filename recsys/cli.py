"""The command line. Heavy imports are inside the commands, so that `--help` is quick."""

import atexit
import gc
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from recsys import __version__
from recsys.commands.options import JsonOption
from recsys.console import app, err, out, print_json, table
from recsys_cython_ext.extras import MissingExtra, install_hint
from recsys_cython_ext.threads import wait_passively

if TYPE_CHECKING:
    from recsys.machine import Machine

for commands in (
    "init",
    "data",
    "tables",
    "compression",
    "training",
    "tuning",
    "checkpoints",
    "comparisons",
    "scoring",
    "policies",
    "online",
    "exporting",
    "serving",
    "cleaning",
):  # in the order of the help
    import_module(f"recsys.commands.{commands}")


def _print_version(requested: bool) -> None:
    if requested:
        out.print(f"recsys {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit"),
    ] = False,
) -> None:
    """Embedding tables for recommender models: how small can they get, and is the difference real?"""


@app.command(rich_help_panel="This program")
def doctor(
    speed: Annotated[bool, typer.Option(help="measure matrix products and gathers, some two seconds")] = True,
    as_json: JsonOption = False,
) -> None:
    """Check the versions of torch, torchrec, fbgemm and ray, name the cure of a wrong pair, and measure the machine."""
    from recsys.doctor import diagnose

    diagnosis = diagnose(measures=speed)
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        grid = table("package", "version")
        for name, number in diagnosis.versions.items():
            grid.add_row(name, number or "[dim]not installed[/dim]")
        out.print(grid)
        for problem in diagnosis.problems:
            out.print(f"[red]✗[/red] {escape(problem)}")
        for note in diagnosis.notes:
            out.print(f"[yellow]–[/yellow] {escape(note)}")
        if diagnosis.machine is not None:
            out.print(_speeds(diagnosis.machine))
            out.print(diagnosis.machine.sentence, markup=False, highlight=False)
        if not diagnosis.problems and not diagnosis.notes:
            out.print("[green]✓[/green] torch, torchrec and fbgemm belong together")
    if diagnosis.problems:
        raise typer.Exit(1)


def _speeds(machine: "Machine") -> Any:
    """Return the table of what the machine does with one thread and with all."""
    grid = table("threads", "fp32 GF/s", "bf16 GF/s", "gathered rows/s")
    for speed in machine.speeds:
        rows = f"{speed.gathered_rows / 1e6:,.0f} M"
        grid.add_row(str(speed.threads), f"{speed.fp32_gflops:,.0f}", f"{speed.bf16_gflops:,.0f}", rows)
    return grid


@app.command(rich_help_panel="This program")
def migrate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="experiments as YAML", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Rewrite experiments of version 0.1: their sections search and shrink are tuning and compression now."""
    from recsys.config.migration import migrated
    from recsys_cython_ext.files import write_text

    texts = {path: (path.read_text(encoding="utf-8"), path) for path in paths}
    rewritten = {path: migrated(*text) for path, text in texts.items()}  # all or none
    changed = [path for path in paths if rewritten[path] != texts[path][0]]
    for path in changed:
        write_text(rewritten[path], path)
    if as_json:
        return print_json({"rewritten": [str(path) for path in changed]})
    for path in paths:
        out.print(f"{path}: {'rewritten' if path in changed else 'as it was'}", markup=False, highlight=False)


def main() -> None:
    """Run the command line; mistakes in the input end as one clear message and exit status 2."""
    wait_passively()
    atexit.register(gc.freeze)  # or Python looks for garbage at the end, among all that was imported
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("RECSYS_TRACEBACK"):
            raise
        _exit_with(str(error))
    except ImportError as error:
        hint = str(error) if isinstance(error, MissingExtra) else install_hint(error.name or "")
        if hint is None or os.environ.get("RECSYS_TRACEBACK"):
            raise
        _exit_with(f"this needs more than the bare installation: {hint}")


def _exit_with(message: str) -> NoReturn:
    """Print what is wrong, on standard output too where a program reads it, and exit with status 2."""
    if "--json" in sys.argv:
        print_json({"error": message})
    err.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":  # of a Ray job, whose package is not installed
    main()
