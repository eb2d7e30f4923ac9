"""Command that removes what is of no more use: clean."""

import re
import sys
from typing import Annotated, Any

import typer

from recsys.commands.options import PREPARED, RUNS, DetailsOption, JsonOption, PreparedOption, RunsOption
from recsys.console import app, out, print_json, print_result

SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
SHOWN = 15  # of the largest leftovers, without --details

OlderThanOption = Annotated[
    str | None,
    typer.Option(
        help="also finished runs and what belongs to them that were written longer ago: 30d, 12h, 4w"
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="remove what is listed, and do not ask")]


@app.command(rich_help_panel="This program")
def clean(
    older_than: OlderThanOption = None,
    yes: YesOption = False,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what killed jobs left, what nothing refers to, and what is old, with bytes; remove it when told to."""
    from recsys.cleaning.removal import Removal, remove_leftovers
    from recsys.cleaning.survey import survey

    seconds = None if older_than is None else _seconds(older_than)
    leftovers = survey(runs, prepared, seconds)
    if not as_json:
        _print_leftovers(leftovers, details)
    if leftovers and not yes and not as_json and sys.stdin.isatty():
        yes = typer.confirm("Remove them?")
    result = remove_leftovers(leftovers, runs, prepared, seconds) if yes else Removal([], [])
    if as_json:
        return print_json(
            {
                "leftovers": [leftover.to_dict() for leftover in leftovers],
                "bytes": _bytes(leftovers),
                "removed": [str(leftover.path) for leftover in result.removed],
                "removed_bytes": _bytes(result.removed),
                "kept": {str(leftover.path): why for leftover, why in result.kept},
            }
        )
    for leftover, why in result.kept:
        out.print(
            f"kept {leftover.path}: {why}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    if yes:
        out.print(
            f"removed {len(result.removed)}, {_bytes(result.removed):,} bytes", style="bold", highlight=False
        )
    elif leftovers:
        out.print("Nothing was removed; --yes removes what is listed.", highlight=False)


def _print_leftovers(leftovers: list[Any], details: bool) -> None:
    """Print the largest leftovers, or all of them, and the bytes of all."""
    from recsys.reports.sheet import Sheet

    if not leftovers:
        return out.print("Nothing is left over.", highlight=False)
    rows = [
        (str(item.path), item.kind, f"{item.reason}: {item.why}", f"{item.bytes:,}")
        for item in sorted(leftovers, key=lambda item: -item.bytes)
    ]
    sheet = Sheet("Left over", ("path", "what", "why", "bytes"), rows)
    if not details:
        sheet = sheet.head(SHOWN, f"The largest {SHOWN} of {len(rows)}; all of them with --details.")
    parts = []
    for reason in ("unfinished", "superseded", "old"):
        if items := [item for item in leftovers if item.reason == reason]:
            parts.append(f"{len(items)} {reason} ({_bytes(items):,} bytes)")
    print_result(f"{', '.join(parts)}: {_bytes(leftovers):,} bytes in all.", [sheet], details)


def _bytes(leftovers: list[Any]) -> int:
    return sum(leftover.bytes for leftover in leftovers)


def _seconds(text: str) -> float:
    """Read a length of time, such as 30d."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([hdw])", text.strip())
    if match is None:
        raise ValueError(f"--older-than {text!r}: give hours, days or weeks, such as 12h, 30d or 4w")
    return float(match[1]) * SECONDS[match[2]]
