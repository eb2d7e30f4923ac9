"""Commands on logged actions of a policy: ope, replay."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.commands.options import (
    RUNS,
    DetailsOption,
    JsonOption,
    LevelOption,
    PositionOption,
    ReportOption,
    RunsOption,
    UserOption,
)
from recsys.console import app, bars, print_json, print_result
from recsys_cython_ext.progress import Progress

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
PolicyLogOption = Annotated[
    Path | None,
    typer.Option(help="log of the policy itself: its action frequencies (without --policy) and rewards"),
]
PolicyWhereOption = Annotated[
    list[str] | None, typer.Option(help="rows of --policy-log to use, column=value")
]
WhereOption = Annotated[list[str] | None, typer.Option(help="rows of the log to use, column=value")]
ActionOption = Annotated[str | None, typer.Option(help="its column; default: action, item_id")]
RewardOption = Annotated[str | None, typer.Option(help="its column; default: reward, click, label")]
PropensityOption = Annotated[
    str | None, typer.Option(help="its column; default: propensity, propensity_score, pscore")
]
RowIdOption = Annotated[str | None, typer.Option(help="default: row_id, else the number of the row")]
EstimatorOption = Annotated[
    str | None, typer.Option(help="the verdict's; default: dr, snips without all actions")
]
RewardModelOption = Annotated[
    Path | None,
    typer.Option(
        help="experiment as YAML, trained out of fold to predict the reward of every action; default: means by "
        "action and position"
    ),
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="on weights, clipped and switch-dr; default: √rows")
]
IntervalsOption = Annotated[
    Literal["normal", "bootstrap"], typer.Option("--intervals", help="how they are made")
]


@app.command(rich_help_panel="Judging")
def ope(
    log: Annotated[
        Path, typer.Argument(help="logged actions: Parquet, Arrow, CSV or TSV", show_default=False)
    ],
    policy: PolicyOption = None,
    greedy: GreedyOption = None,
    softmax: SoftmaxOption = None,
    test_rows: TestRowsOption = False,
    policy_log: PolicyLogOption = None,
    where: WhereOption = None,
    policy_where: PolicyWhereOption = None,
    action: ActionOption = None,
    reward: RewardOption = None,
    propensity: PropensityOption = None,
    position: PositionOption = None,
    user: UserOption = None,
    row_id: RowIdOption = None,
    estimator: EstimatorOption = None,
    reward_model: RewardModelOption = None,
    runs: RunsOption = RUNS,
    threshold: ThresholdOption = None,
    method: IntervalsOption = "normal",
    level: LevelOption = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="of folds and bootstrap")] = 0,
    report: ReportOption = Path("ope-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate what another policy would have earned on logged actions, or say why the log cannot tell."""
    from recsys.evaluation.off_policy.estimators import evaluate_policy
    from recsys.policies.log import read_log
    from recsys.reports.off_policy import on_policy, ope_dict, ope_sheets, ope_summary, write_ope

    if policy is None and policy_log is None:
        raise ValueError(
            "no policy to judge: give --policy uniform, --policy FILE, --policy RUN or --policy-log FILE"
        )
    columns = _columns(action, reward, propensity, position, user, row_id)
    logged = read_log(log, columns, where or (), _rows(log, policy, test_rows))
    own_log = None if policy_log is None else read_log(policy_log, columns, policy_where or ())
    with bars(*([] if reward_model is None else [runs])) as show:
        target = _target(policy, log, logged, own_log, greedy, softmax, show)
        model = None
        if reward_model is not None:
            model = _reward_model(reward_model, log, logged, target, runs, seed, show)
    truth = None if own_log is None else on_policy(own_log)
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
    print_result(ope_summary(result, truth), ope_sheets(result, truth), details, report=report)


@app.command(rich_help_panel="Judging")
def replay(
    log: Annotated[
        Path, typer.Argument(help="actions drawn uniformly: Parquet, Arrow, CSV or TSV", show_default=False)
    ],
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
    report: ReportOption = Path("replay-report.html"),
    as_json: JsonOption = False,
) -> None:
    """Replay a policy on uniformly logged actions: the mean reward of the rows where it chooses the logged one."""
    from recsys.evaluation.off_policy.replay import replay as replayed
    from recsys.evaluation.off_policy.replay import require_uniform
    from recsys.policies.log import read_log
    from recsys.reports.replay import replay_dict, replay_sheets, replay_summary, write_replay

    if policy is None:
        raise ValueError("no policy to replay: give --policy FILE or --policy RUN")
    columns = _columns(action, reward, propensity, position, user, row_id)
    logged = read_log(log, columns, where or (), _rows(log, policy, test_rows))
    require_uniform(logged)  # before a run's predictions are made
    with bars() as show:
        target = _target(policy, log, logged, None, greedy, softmax, show)
    result = replayed(logged, target, level=level, seed=seed)
    write_replay(result, report)
    if as_json:
        return print_json({**replay_dict(result), "report": str(report)})
    print_result(replay_summary(result), replay_sheets(result), details=True, report=report)


def _columns(*names: str | None) -> dict[str, str | None]:
    """Return the names of a log's columns by role, None where the user names none."""
    return dict(zip(("action", "reward", "propensity", "position", "user", "row_id"), names, strict=True))


def _rows(log: Path, policy: str | None, test_rows: bool) -> Any:
    """Return numbers of the rows to use: with --test-rows those that the policy's run was tested on; None for all."""
    if not test_rows:
        return None
    if policy is None or not Path(policy).is_dir():
        raise ValueError("--test-rows are those of a run: name its folder with --policy")
    from recsys.policies.models import held_out_rows, trained_on
    from recsys.training.run import Run

    run = Run.open(Path(policy))
    if not trained_on(run, log):
        raise ValueError(
            f"--test-rows: {policy} was trained on {run.config.data.path}, not on {log}: leave it out"
        )
    return held_out_rows(run)


def _target(
    policy: str | None,
    path: Path,
    log: Any,
    own_log: Any,
    greedy: float | None,
    softmax: float | None,
    show: Progress,
) -> Any:
    """Return the policy to judge: a run, a file of probabilities, uniform, or what its own log shows of it."""
    if policy is None:
        from recsys.evaluation.off_policy.target import frequencies

        return frequencies(log, own_log)
    if policy != "uniform" and Path(policy).is_dir():
        from recsys.policies.models import policy_of
        from recsys.training.run import Run

        return policy_of(Run.open(Path(policy)), path, log, greedy=greedy, temperature=softmax, progress=show)
    if greedy is not None or softmax is not None:
        raise ValueError(
            f"--greedy and --softmax make a policy of a run's predictions, and {policy} is no run's folder"
        )
    from recsys.evaluation.off_policy.target import uniform
    from recsys.policies.log import read_policy

    return uniform(log) if policy == "uniform" else read_policy(policy, log)


def _reward_model(
    config: Path, path: Path, log: Any, target: Any, runs: Path, seed: int, show: Progress
) -> Any:
    """Train the experiment of a reward model out of fold, and return its predictions."""
    from recsys.config import load_experiment
    from recsys.policies.models import cross_fitted

    experiment = load_experiment(config, str(path))
    return cross_fitted(experiment, path, log, target, runs, seed=seed, progress=show)
