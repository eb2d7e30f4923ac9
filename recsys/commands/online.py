"""Commands on online experiments: interleave, abtest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.commands.options import (
    DetailsOption,
    JsonOption,
    LevelOption,
    PositionOption,
    ReportOption,
    UserOption,
)
from recsys.console import app, print_json, print_result

TeamsOption = Annotated[
    str | None,
    typer.Option(help="the two, such as new,old: the preference is for the first; default: by name"),
]
ImpressionOption = Annotated[
    str | None, typer.Option(help="which list; default: impression, impression_id, session, session_id")
]
ItemOption = Annotated[str | None, typer.Option(help="its column; default: item, item_id")]
TeamOption = Annotated[str | None, typer.Option(help="whose pick the item is; default: team, ranker")]
ClickOption = Annotated[str | None, typer.Option(help="its column, 0 or 1; default: click, label")]

RandomisedUserOption = Annotated[str, typer.Option(help="column of the user, who was assigned at random")]
VariantOption = Annotated[str, typer.Option(help="column of the variant")]
ControlOption = Annotated[
    str | None, typer.Option(help="variant to compare with; default: 'control', or the first by name")
]
MetricOption = Annotated[list[str] | None, typer.Option(help="column whose total per user is compared")]
RatioOption = Annotated[
    list[str] | None, typer.Option(help="ratio of two columns' totals, such as clicks/impressions")
]
CovariateOption = Annotated[
    str | None,
    typer.Option(help="column from before the test, one value per user: less variance (CUPED)"),
]
DayOption = Annotated[
    str | None, typer.Option(help="column of the day: intervals that may be looked at every day")
]
PlannedDaysOption = Annotated[
    int, typer.Option(min=1, help="days planned beforehand: there the daily intervals are narrowest")
]
ExpectedShareOption = Annotated[
    str | None,
    typer.Option(help="planned split, control first, such as 50:50; or by name; default: equal"),
]
WorthwhileOption = Annotated[
    float | None,
    typer.Option(help="least relative lift that matters, such as 0.02, to tell none from unknown"),
]


@app.command(rich_help_panel="Judging")
def interleave(
    log: Annotated[
        Path,
        typer.Argument(
            help="shown items of team-draft lists: Parquet, Arrow, CSV or TSV", show_default=False
        ),
    ],
    teams: TeamsOption = None,
    impression: ImpressionOption = None,
    position: PositionOption = None,
    item: ItemOption = None,
    team: TeamOption = None,
    click: ClickOption = None,
    user: UserOption = None,
    level: LevelOption = 0.95,
    report: ReportOption = Path("interleave-report.html"),
    details: DetailsOption = False,
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

    columns = {
        "impression": impression,
        "position": position,
        "item": item,
        "team": team,
        "click": click,
        "user": user,
    }
    result = analyse_interleaving(read_interleaved(log, columns, _team_names(teams)), level=level)
    write_interleaving(result, report)
    if as_json:
        print_json({**interleaving_dict(result), "report": str(report)})
    else:
        credit, preference = interleaving_sheets(result)
        print_result(interleaving_summary(result), [preference, credit], details, report=report)
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
    user: RandomisedUserOption = "user_id",
    variant: VariantOption = "variant",
    control: ControlOption = None,
    metric: MetricOption = None,
    ratio: RatioOption = None,
    covariate: CovariateOption = None,
    day: DayOption = None,
    planned_days: PlannedDaysOption = 14,
    expected_share: ExpectedShareOption = None,
    worthwhile: WorthwhileOption = None,
    report: ReportOption = Path("abtest-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge an online A/B test from its assignment log; status 1 when its sample ratio is broken."""
    from recsys.evaluation.online.experiment import analyse, expected_shares
    from recsys.policies.assignment_log import read_assignments
    from recsys.reports.online import online_json, write_online_report

    targets = _targets(metric or [], ratio or [])
    log = read_assignments(assignments, user, variant, targets, control, covariate, day)
    shares = expected_shares(expected_share, log.variants)
    test = analyse(log, shares, worthwhile=worthwhile, planned_days=planned_days)
    write_online_report(test, report, assignments.name)
    if as_json:
        print_json({**online_json(test), "report": str(report)})
    else:
        _print_test(test, report, details)
    if not test.sample_ratio.passed:
        raise typer.Exit(1)


def _team_names(text: str | None) -> tuple[str, str] | None:
    """Read the names of two teams, such as `new,old`; None where there is no text."""
    if text is None:
        return None
    first, comma, second = (part.strip() for part in text.partition(","))
    if not (first and comma and second) or "," in second or first == second:
        raise ValueError(f"--teams {text!r}: give two names, such as new,old")
    return first, second


def _targets(metrics: Sequence[str], ratios: Sequence[str]) -> list[Any]:
    """Return what is to be compared: totals of columns, and ratios such as `clicks/impressions`."""
    from recsys.evaluation.online.log import Target

    targets = [Target(name) for name in metrics]
    for text in ratios:
        numerator, slash, denominator = text.partition("/")
        if not (numerator.strip() and slash and denominator.strip()):
            raise ValueError(f"ratio {text!r}: give two columns, such as clicks/impressions")
        targets.append(Target(numerator.strip(), denominator.strip()))
    return targets


def _print_test(test: Any, report: Path, details: bool) -> None:
    """Print the differences of an online test and its summary, in details the rest, and where its report is."""
    from recsys.reports.online import online_sheets, summary, verdicts

    sheets = [sheet for sheet in online_sheets(test) if not sheet.folded]
    print_result(summary(test), [*sheets[2:], *sheets[:2]], details, verdicts(test), report=report)
