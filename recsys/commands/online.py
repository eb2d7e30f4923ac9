"""Commands on online experiments: interleave, abtest."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.commands.options import JsonOption, LevelOption, PositionOption, ReportOption, UserOption
from recsys.console import app, out, print_json, print_place, print_sheets


@app.command(rich_help_panel="Judging")
def interleave(
    log: Annotated[
        Path,
        typer.Argument(
            help="shown items of team-draft lists: Parquet, Arrow, CSV or TSV", show_default=False
        ),
    ],
    teams: Annotated[
        str | None,
        typer.Option(help="the two, such as new,old: the preference is for the first; default: by name"),
    ] = None,
    impression: Annotated[
        str | None, typer.Option(help="which list; default: impression, impression_id, session, session_id")
    ] = None,
    position: PositionOption = None,
    item: Annotated[str | None, typer.Option(help="its column; default: item, item_id")] = None,
    team: Annotated[str | None, typer.Option(help="whose pick the item is; default: team, ranker")] = None,
    click: Annotated[str | None, typer.Option(help="its column, 0 or 1; default: click, label")] = None,
    user: UserOption = None,
    level: LevelOption = 0.95,
    report: ReportOption = Path("interleave-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Say which of two rankers users prefer, from lists that both drafted; status 1 when the draft was not fair."""
    from recsys.evaluation.online.interleaving import analyse_interleaving
    from recsys.policies.interleaving_log import read_interleaved
    from recsys.reports.interleaving import (
        interleaving_dict,
        interleaving_sheets,
        interleaving_summary,
        write_interleaving,
    )

    pair = None
    if teams is not None:
        first, comma, second = (part.strip() for part in teams.partition(","))
        if not (first and comma and second) or "," in second or first == second:
            raise ValueError(f"--teams {teams!r}: give two names, such as new,old")
        pair = (first, second)
    columns = {
        "impression": impression,
        "position": position,
        "item": item,
        "team": team,
        "click": click,
        "user": user,
    }
    result = analyse_interleaving(read_interleaved(log, columns, pair), level=level)
    write_interleaving(result, report)
    if as_json:
        print_json({**interleaving_dict(result), "report": str(report)})
    else:
        print_sheets(interleaving_summary(result), interleaving_sheets(result), report)
    if result.verdict == "broken":
        raise typer.Exit(1)


@app.command(rich_help_panel="Judging")
def abtest(
    assignments: Annotated[
        Path,
        typer.Argument(
            help="Parquet, Arrow, CSV or TSV, a row per user, per user and day, or event", show_default=False
        ),
    ],
    user: Annotated[str, typer.Option(help="column of the user, who was assigned at random")] = "user_id",
    variant: Annotated[str, typer.Option(help="column of the variant")] = "variant",
    control: Annotated[
        str | None, typer.Option(help="variant to compare with; default: 'control', or the first by name")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="column whose total per user is compared")] = None,
    ratio: Annotated[
        list[str] | None, typer.Option(help="ratio of two columns' totals, such as clicks/impressions")
    ] = None,
    covariate: Annotated[
        str | None,
        typer.Option(help="column from before the test, one value per user: less variance (CUPED)"),
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="column of the day: intervals that may be looked at every day")
    ] = None,
    planned_days: Annotated[
        int, typer.Option(min=1, help="days planned beforehand: there the daily intervals are narrowest")
    ] = 14,
    expected_share: Annotated[
        str | None,
        typer.Option(help="planned split, control first, such as 50:50; or by name; default: equal"),
    ] = None,
    worthwhile: Annotated[
        float | None,
        typer.Option(help="least relative lift that matters, such as 0.02, to tell none from unknown"),
    ] = None,
    report: ReportOption = Path("abtest-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Judge an online A/B test from its assignment log; status 1 when its sample ratio is broken."""
    from recsys.evaluation.online.experiment import analyse, expected_shares
    from recsys.evaluation.online.log import Target
    from recsys.policies.assignment_log import read_assignments
    from recsys.reports.online import online_json, online_sheets, summary, verdicts, write_online_report

    targets = [Target(name) for name in metric or []]
    for text in ratio or []:
        top, slash, bottom = text.partition("/")
        if not (top.strip() and slash and bottom.strip()):
            raise ValueError(f"ratio {text!r}: give two columns, such as clicks/impressions")
        targets.append(Target(top.strip(), bottom.strip()))
    log = read_assignments(assignments, user, variant, targets, control, covariate, day)
    shares = expected_shares(expected_share, log.variants)
    found = analyse(log, shares, worthwhile=worthwhile, planned_days=planned_days)
    write_online_report(found, report, assignments.name)
    if as_json:
        print_json({**online_json(found), "report": str(report)})
    else:
        for sheet in online_sheets(found):
            if not sheet.folded:
                out.print(sheet.grid())
        for line in verdicts(found):
            out.print(line, markup=False, highlight=False)
        out.print(summary(found), style="bold", markup=False, highlight=False)
        print_place("report", report.resolve())
    if not found.sample_ratio.passed:
        raise typer.Exit(1)
