"""The parts that all commands share: the application, its tables, progress and JSON."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBars
from rich.table import Table

from recsys_cython_ext.files import in_use
from recsys_cython_ext.progress import Progress

WIDTH = 100  # columns of what is printed at most; a pipe, which has no width, gets them all
NAMED = 5  # tables that are left out and named
LINE_SECONDS = 10.0  # between two lines on a stage, where there is no terminal

app = typer.Typer(
    help="Embedding tables for recommender models: how small can they get, and is the difference real?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def open_closed_streams() -> None:
    """Let nothing be in the place of a standard stream that was closed: else the next file to be opened takes it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(nowhere, "r" if number == 0 else "w", closefd=False))


open_closed_streams()
out = Console(width=min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
err = Console(stderr=True)


def ready(experiment: Any, root: Path, on: Path | None, show: Progress) -> Any:
    """Return the prepared set of an experiment: the one in the folder `on`, or what its data give."""
    from recsys_pipelines.preparation.prepare import prepare
    from recsys_pipelines.preparation.prepared import Prepared

    if on is None:
        return with_doubts(prepare(experiment.data, experiment.features, root, preparing(show)))
    named = Prepared.open(on)
    named.require_same(experiment.data, experiment.features)
    return with_doubts(named)


def with_doubts(prepared: Any) -> Any:
    """Return a prepared set after saying what in it is likely not meant."""
    for doubt in prepared.manifest.doubts:
        warn(f"{prepared.path}: {doubt}")
    return prepared


def preparing(show: Progress) -> Progress:
    """Return progress that shows the rows a second of each stage too."""
    started: dict[str, float] = {}
    last = time.monotonic()

    def report(stage: str, rows: int, of: int | None, detail: str = "", /) -> None:
        nonlocal last
        start, last = started.setdefault(stage, last), time.monotonic()
        rate = f"{rows / max(last - start, 1e-9):,.0f} rows/s"
        show(stage, rows, of, f"{rate}, {detail}" if detail else rate)

    return report


@contextmanager
def bars(*folders: Path) -> Iterator[Progress]:
    """Show progress on standard error by `show(stage, finished, of, detail)`: bars, or lines without a terminal.

    The folders are what a job works in: they are made, and `recsys clean` leaves alone what lies there meanwhile.
    """
    with ExitStack() as stack:
        show = stack.enter_context(_bars() if err.is_terminal else _lines())
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(in_use(folder))
            yield show
        except KeyboardInterrupt:
            err.print("interrupted; what was finished is kept, and the same command goes on from there")
            raise
        except BrokenProcessPool:
            raise ValueError(
                "a worker process was killed, most likely for want of memory; what was finished is kept: "
                "run the same command again with --jobs 1"
            ) from None


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBars(*columns, console=err) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=of, detail=detail)
            progress.update(tasks[stage], completed=finished, total=of, detail=detail)

        yield show


@contextmanager
def _lines() -> Iterator[Progress]:
    """Say in a line where each stage is: when it ends, and every so many seconds while it lasts."""
    printed: dict[str, float] = {}  # when a stage was printed last, or began
    pending: dict[str, str] = {}  # lines of stages that have moved on since
    ended: set[str] = set()

    def show(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        amount = f"{finished:,}" if of is None else f"{finished:,} of {of:,}"
        pending[stage] = f"{stage}: {amount}" + (f", {detail}" if detail else "")
        now = time.monotonic()
        ends = of is not None and finished >= of and stage not in ended
        if ends or now - printed.setdefault(stage, now) >= LINE_SECONDS:
            printed[stage] = now
            err.print(pending.pop(stage), markup=False, highlight=False, soft_wrap=True)
        if ends:
            ended.add(stage)

    try:
        yield show
    finally:
        for line in pending.values():
            err.print(line, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Say on standard error what a user should know and no result holds."""
    err.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def table(*headers: str) -> Table:
    """Return an empty table whose cells are folded where they are too long, and never cut."""
    grid = Table()
    for header in headers:
        grid.add_column(escape(header), overflow="fold")
    return grid


def print_metrics(columns: dict[str, dict[str, Any]]) -> None:
    """Print a table of metrics, one column for each set of them."""
    grid = table("metric", *columns)
    for name in next(iter(columns.values())):
        values = [column.get(name) for column in columns.values()]
        grid.add_row(name, *("–" if v is None else f"{v:.6g}" for v in values))
    out.print(grid)


def print_result(
    answer: str,
    sheets: Sequence[Any],
    details: bool,
    lines: Sequence[str] = (),
    report: Path | None = None,
) -> None:
    """Print one table, the first, and below it the answer in a sentence; before them all the rest, with `--details`.

    Args:
        answer: The result in a sentence.
        sheets: The table that goes with it, then those of the details.
        details: Whether the user asks for them; their names are printed otherwise.
        lines: Sentences of the details.
        report: Is named at the end.
    """
    first, *others = sheets
    if details:
        for line in lines:
            out.print(line, markup=False, highlight=False)
        for sheet in others:
            print_sheet(sheet)
    print_sheet(first)
    if others and not details:
        titles = "; ".join(sheet.title for sheet in others[:NAMED])
        rest = f"; and {len(others) - NAMED} more" if len(others) > NAMED else ""
        out.print(f"With --details: {titles}{rest}.", style="dim", markup=False, highlight=False)
    out.print(answer, style="bold", markup=False, highlight=False)
    if report is not None:
        print_place("report", report.resolve())


def print_sheet(sheet: Any) -> None:
    """Print a table, in several below each other where it is wider than the terminal, and its note."""
    for grid in sheet.grids(out.width):
        out.print(grid)
    if sheet.note:
        out.print(sheet.footer, style="dim", highlight=False)


def print_cost(cost: Any, as_json: bool) -> None:
    """Print how many trainings there are, and what they need at most."""
    if as_json:
        return print_json(cost.to_dict())
    for step, number in cost.runs.items():
        if number:
            out.print(f"{number:4d} {step}", highlight=False)
    out.print(cost.sentence, highlight=False)


def announce(text: str) -> None:
    """Say on standard error what is to be expected of the work that begins."""
    err.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


def print_place(label: str, place: Path, more: str = "") -> None:
    """Say where something lies; a path is text, whatever brackets it holds."""
    out.print(f"{label}: " if label else "", end="", markup=False, highlight=False)
    out.print(
        str(place), style="bold", markup=False, highlight=False, soft_wrap=True, end="" if more else "\n"
    )
    if more:
        out.print(more, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print the result for programs, on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
    sys.stdout.flush()  # here, where a reader that has gone is no error: at the end of the program it would be
