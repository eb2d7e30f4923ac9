"""Commands on logs of decisions: ope, replay, interleave, abtest."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.console import RUNS, JsonOption, RunsOption, Show, app, bars, out, print_json, print_sheets

PolicyOption = Annotated[
    str | None,
    typer.Option(
        help="'uniform'; a file of row_id, probability and, where known, one column per action; or the folder of a "
        "finished run, with --greedy or --softmax"
    ),
]
GreedyOption = Annotated[
    float | None,
    typer.Option(
        help="of a run: this share at random, else the action with the highest prediction", metavar="EPSILON"
    ),
]
SoftmaxOption = Annotated[
    float | None,
    typer.Option(help="of a run: probabilities in proportion to exp(log-odds / this)", metavar="TEMPERATURE"),
]
TestRowsOption = Annotated[
    bool, typer.Option("--test-rows", help="of a log the run was trained on, use the rows of its test only")
]
WhereOption = Annotated[list[str] | None, typer.Option(help="rows of the log to use, column=value")]
ActionOption = Annotated[str | None, typer.Option(help="its column; default: action, item_id")]
RewardOption = Annotated[str | None, typer.Option(help="its column; default: reward, click, label")]
PropensityOption = Annotated[
    str | None, typer.Option(help="its column; default: propensity, propensity_score, pscore")
]
PositionOption = Annotated[str | None, typer.Option(help="place in a slate; default: position, if any")]
UserOption = Annotated[
    str | None, typer.Option(help="whose rows are dependent; default: user, user_id, if any")
]
RowIdOption = Annotated[str | None, typer.Option(help="default: row_id, else the number of the row")]
LevelOption = Annotated[float, typer.Option(help="of the intervals")]


def _kept(log: Path, policy: str | None, test_rows: bool) -> Any:
    """Numbers of the rows to use, None for all: with --test-rows those that the policy's run was tested on."""
    if not test_rows:
        return None
    if policy is None or not Path(policy).is_dir():
        raise ValueError("--test-rows are those of a run: name its folder with --policy")
    from recsys.off_policy_models import held_out_rows, trained_on
    from recsys.training.run import Run

    run = Run.open(Path(policy))
    if not trained_on(run, log):
        raise ValueError(
            f"--test-rows: {policy} was trained on {run.config.data.path}, not on {log}: leave it out"
        )
    return held_out_rows(run)


def _target(
    policy: str, log: Path, logged: Any, greedy: float | None, softmax: float | None, show: Show
) -> Any:
    """The policy that is named: uniform, a run, or a file of probabilities."""
    from recsys.evaluation.off_policy_data import uniform
    from recsys.off_policy_log import read_policy

    if policy != "uniform" and Path(policy).is_dir():
        from recsys.off_policy_models import policy_of
        from recsys.training.run import Run

        return policy_of(
            Run.open(Path(policy)), log, logged, greedy=greedy, temperature=softmax, progress=show
        )
    if greedy is not None or softmax is not None:
        raise ValueError(
            f"--greedy and --softmax make a policy of a run's predictions, and {policy} is no run's folder"
        )
    return uniform(logged) if policy == "uniform" else read_policy(Path(policy), logged)


@app.command()
def ope(
    log: Annotated[Path, typer.Argument(help="logged actions, Parquet or CSV", show_default=False)],
    policy: PolicyOption = None,
    greedy: GreedyOption = None,
    softmax: SoftmaxOption = None,
    test_rows: TestRowsOption = False,
    policy_log: Annotated[
        Path | None,
        typer.Option(help="log of the policy itself: its action frequencies (without --policy) and rewards"),
    ] = None,
    where: WhereOption = None,
    policy_where: Annotated[
        list[str] | None, typer.Option(help="rows of --policy-log to use, column=value")
    ] = None,
    action: ActionOption = None,
    reward: RewardOption = None,
    propensity: PropensityOption = None,
    position: PositionOption = None,
    user: UserOption = None,
    row_id: RowIdOption = None,
    estimator: Annotated[
        str | None, typer.Option(help="the verdict's; default: dr, snips without all actions")
    ] = None,
    reward_model: Annotated[
        Path | None,
        typer.Option(
            help="experiment as YAML, trained out of fold to predict the reward of every action; default: means by "
            "action and position"
        ),
    ] = None,
    runs: RunsOption = RUNS,
    threshold: Annotated[
        float | None, typer.Option(help="on weights, clipped and switch-dr; default: √rows")
    ] = None,
    method: Annotated[
        Literal["normal", "bootstrap"], typer.Option("--intervals", help="how they are made")
    ] = "normal",
    level: LevelOption = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="of folds and bootstrap")] = 0,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("ope-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Estimate what another policy would have earned on logged actions, or say why the log cannot tell."""
    from recsys.evaluation.off_policy import evaluate_policy
    from recsys.evaluation.off_policy_data import frequencies
    from recsys.off_policy_log import read_log
    from recsys.off_policy_report import on_policy, ope_dict, ope_sheets, ope_summary, write_ope

    if policy is None and policy_log is None:
        raise ValueError(
            "no policy to judge: give --policy uniform, --policy FILE, --policy RUN or --policy-log FILE"
        )
    columns = {
        "action": action,
        "reward": reward,
        "propensity": propensity,
        "position": position,
        "user": user,
        "row_id": row_id,
    }
    logged = read_log(log, columns, where or (), _kept(log, policy, test_rows))
    own = None if policy_log is None else read_log(policy_log, columns, policy_where or ())
    with bars() as show:
        if policy is not None:
            target = _target(policy, log, logged, greedy, softmax, show)
        else:
            assert own is not None
            target = frequencies(logged, own)
        model = None
        if reward_model is not None:
            from recsys.config import load
            from recsys.off_policy_models import cross_fitted

            experiment = load(reward_model, str(log))
            model = cross_fitted(experiment, log, logged, target, runs, seed=seed, progress=show)
    truth = None if own is None else on_policy(own)
    result = evaluate_policy(
        logged,
        target,
        primary=estimator,
        threshold=threshold,
        model=model,
        method=method,
        level=level,
        seed=seed,
    )
    write_ope(result, report, truth)
    if as_json:
        return print_json({**ope_dict(result, truth), "report": str(report)})
    print_sheets(ope_summary(result, truth), ope_sheets(result, truth), report)


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="actions drawn uniformly, Parquet or CSV", show_default=False)],
    policy: PolicyOption = None,
    greedy: GreedyOption = None,
    softmax: SoftmaxOption = None,
    test_rows: TestRowsOption = False,
    where: WhereOption = None,
    action: ActionOption = None,
    reward: RewardOption = None,
    propensity: PropensityOption = None,
    position: PositionOption = None,
    user: UserOption = None,
    row_id: RowIdOption = None,
    level: LevelOption = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="of the draws of a policy that draws")] = 0,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("replay-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Replay a policy on uniformly logged actions: the mean reward of the rows where it chooses the logged one."""
    from recsys.evaluation.replay import replay as replayed
    from recsys.evaluation.replay import require_uniform
    from recsys.off_policy_log import read_log
    from recsys.replay_report import replay_dict, replay_sheets, replay_summary, write_replay

    if policy is None:
        raise ValueError("no policy to replay: give --policy FILE or --policy RUN")
    columns = {
        "action": action,
        "reward": reward,
        "propensity": propensity,
        "position": position,
        "user": user,
        "row_id": row_id,
    }
    logged = read_log(log, columns, where or (), _kept(log, policy, test_rows))
    require_uniform(logged)  # before a run's predictions are made
    with bars() as show:
        target = _target(policy, log, logged, greedy, softmax, show)
    result = replayed(logged, target, level=level, seed=seed)
    write_replay(result, report)
    if as_json:
        return print_json({**replay_dict(result), "report": str(report)})
    print_sheets(replay_summary(result), replay_sheets(result), report)


@app.command()
def interleave(
    log: Annotated[
        Path,
        typer.Argument(help="shown items of team-draft lists, Parquet or CSV", show_default=False),
    ],
    teams: Annotated[
        str | None,
        typer.Option(help="the two, such as new,old: the preference is for the first; default: by name"),
    ] = None,
    impression: Annotated[
        str | None, typer.Option(help="which list; default: impression, impression_id, session, session_id")
    ] = None,
    position: Annotated[str | None, typer.Option(help="place in the list; default: position, rank")] = None,
    item: Annotated[str | None, typer.Option(help="its column; default: item, item_id")] = None,
    team: Annotated[str | None, typer.Option(help="whose pick the item is; default: team, ranker")] = None,
    click: Annotated[str | None, typer.Option(help="its column, 0 or 1; default: click, label")] = None,
    user: Annotated[
        str | None, typer.Option(help="whose lists are dependent; default: user, user_id, if any")
    ] = None,
    level: LevelOption = 0.95,
    report: Annotated[Path, typer.Option(help="HTML report to write")] = Path("interleave-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Say which of two rankers users prefer, from lists that both drafted; status 1 when the draft was not fair."""
    from recsys.evaluation.interleaving import analyse_interleaving
    from recsys.interleaving_log import read_interleaved
    from recsys.interleaving_report import (
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
