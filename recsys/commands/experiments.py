"""Commands on logs of decisions: ope, abtest."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from recsys.console import JsonOption, app, out, print_json, print_sheets


@app.command()
def ope(
    log: Annotated[Path, typer.Argument(help="logged actions, Parquet or CSV", show_default=False)],
    policy: Annotated[
        str | None,
        typer.Option(
            help="'uniform', or a file of row_id, probability and, where known, one column per action"
        ),
    ] = None,
    policy_log: Annotated[
        Path | None,
        typer.Option(help="log of the policy itself: its action frequencies (without --policy) and rewards"),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="rows of the log to use, column=value")] = None,
    policy_where: Annotated[
        list[str] | None, typer.Option(help="rows of --policy-log to use, column=value")
    ] = None,
    action: Annotated[str | None, typer.Option(help="its column; default: action, item_id")] = None,
    reward: Annotated[str | None, typer.Option(help="its column; default: reward, click, label")] = None,
    propensity: Annotated[
        str | None, typer.Option(help="its column; default: propensity, propensity_score, pscore")
    ] = None,
    position: Annotated[str | None, typer.Option(help="place in a slate; default: position, if any")] = None,
    user: Annotated[
        str | None, typer.Option(help="whose rows are dependent; default: user, user_id, if any")
    ] = None,
    row_id: Annotated[str | None, typer.Option(help="default: row_id, else the number of the row")] = None,
    estimator: Annotated[
        str | None, typer.Option(help="the verdict's; default: dr, snips without all actions")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="on weights, clipped and switch-dr; default: √rows")
    ] = None,
    method: Annotated[
        Literal["normal", "bootstrap"], typer.Option("--intervals", help="how they are made")
    ] = "normal",
    level: Annotated[float, typer.Option(help="of the intervals")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="of folds and bootstrap")] = 0,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("ope-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Estimate what another policy would have earned on logged actions, or say why the log cannot tell."""
    from recsys.evaluation.off_policy import evaluate_policy
    from recsys.evaluation.off_policy_data import frequencies, uniform
    from recsys.off_policy_log import read_log, read_policy
    from recsys.off_policy_report import on_policy, ope_dict, ope_sheets, ope_summary, write_ope

    if policy is None and policy_log is None:
        raise ValueError("no policy to judge: give --policy uniform, --policy FILE or --policy-log FILE")
    columns = {
        "action": action,
        "reward": reward,
        "propensity": propensity,
        "position": position,
        "user": user,
        "row_id": row_id,
    }
    logged = read_log(log, columns, where or ())
    own = None if policy_log is None else read_log(policy_log, columns, policy_where or ())
    if policy is not None:
        target = uniform(logged) if policy == "uniform" else read_policy(Path(policy), logged)
    else:
        assert own is not None
        target = frequencies(logged, own)
    truth = None if own is None else on_policy(own)
    result = evaluate_policy(
        logged, target, primary=estimator, threshold=threshold, method=method, level=level, seed=seed
    )
    write_ope(result, report, truth)
    if as_json:
        return print_json({**ope_dict(result, truth), "report": str(report)})
    print_sheets(ope_summary(result, truth), ope_sheets(result, truth), report)


@app.command()
def abtest(
    assignments: Annotated[
        Path,
        typer.Argument(help="Parquet or CSV, a row per user, per user and day, or event", show_default=False),
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
        str | None, typer.Option(help="planned split, control first, such as 50:50; default: equal")
    ] = None,
    worthwhile: Annotated[
        float | None,
        typer.Option(help="least relative lift that matters, such as 0.02, to tell none from unknown"),
    ] = None,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("abtest-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Judge an online A/B test from its assignment log; status 1 when its sample ratio is broken."""
    from recsys.evaluation.online import analyse, expected_shares
    from recsys.evaluation.online_log import Target, read_assignments
    from recsys.online_report import online_json, online_sheets, summary, verdicts, write_online_report

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
        out.print(f"report: [bold]{report.resolve()}[/bold]", soft_wrap=True)
    if not found.sample_ratio.passed:
        raise typer.Exit(1)
