"""Commands that compare: compare, demo."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.commands.options import (
    PREPARED,
    RUNS,
    DataOption,
    DetailsOption,
    DryRunOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    ReportOption,
    RunsOption,
)
from recsys.console import (
    announce,
    app,
    bars,
    out,
    preparing,
    print_cost,
    print_json,
    print_result,
    with_doubts,
)

SEEDS = 5
COLLECT_AFTER = 50_000  # objects, of Python's 700: looking for garbage among imports took a tenth of the time

ArmsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]PATH...",
        help="experiments as YAML, which are trained; or finished runs and files of predictions (Parquet, Arrow, "
        "CSV, TSV: row_id, label, prediction, perhaps user_id), where one NAME's are seeds of one arm. The first is "
        "the baseline",
        show_default=False,
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        help="name of the arm to compare with, such as hash, or hash@10% of --budgets; default: the first"
    ),
]
EffectOption = Annotated[
    float | None,
    typer.Option(help="smallest difference in AUC that matters: for power, and a verdict of not worse"),
]
SlicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slice",
        help="compare within slices, repeatable: FEATURE, new:FEATURE, frequency:FEATURE or time; of files, a column",
    ),
]
ReplicatesOption = Annotated[
    int | None, typer.Option(min=100, help="of the bootstrap; default: evaluation.replicates, 1000")
]
ConfiguredLevelOption = Annotated[
    float | None, typer.Option(help="of the intervals; default: evaluation.level, 0.95")
]
ConfiguredSeedsOption = Annotated[
    int | None, typer.Option(min=1, help="of experiments: training seeds per arm; default: 5")
]
BudgetsOption = Annotated[
    str,
    typer.Option(
        help="of experiments: compare each at each of these, e.g. '100%,30%,10%,3%' of the full table"
    ),
]
FileRowIdOption = Annotated[str | None, typer.Option(help="of files: its column; default: row_id")]
FileUserOption = Annotated[
    str | None, typer.Option(help="of files: whose rows are dependent; default: user_id, if any")
]
FileLabelOption = Annotated[str | None, typer.Option(help="of files: its column, 0 or 1; default: label")]
FilePredictionOption = Annotated[str | None, typer.Option(help="of files: its column; default: prediction")]
FileTimeOption = Annotated[str | None, typer.Option(help="of files: column of the time, to follow the days")]


@dataclass(frozen=True)
class _ConfigComparison:
    """How a comparison of experiments is made, and where its results go."""

    seeds: int
    prepared: Path
    runs: Path
    jobs: int | None
    report: Path
    details: bool
    as_json: bool
    budgets: str = ""
    effect: float | None = None
    slices: tuple[str, ...] = ()
    baseline: str | None = None
    dry_run: bool = False


@app.command(rich_help_panel="Judging")
def compare(
    arms: ArmsArgument,
    baseline: BaselineOption = None,
    effect: EffectOption = None,
    slices: SlicesOption = None,
    replicates: ReplicatesOption = None,
    level: ConfiguredLevelOption = None,
    seeds: ConfiguredSeedsOption = None,
    budgets: BudgetsOption = "",
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    row_id: FileRowIdOption = None,
    user: FileUserOption = None,
    label: FileLabelOption = None,
    prediction: FilePredictionOption = None,
    time: FileTimeOption = None,
    report: ReportOption = Path("report.html"),
    dry_run: DryRunOption = False,
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Pair predictions row by row and say which arm is better, after training what is missing."""
    gc.set_threshold(COLLECT_AFTER)
    from recsys.comparison.predictions import are_configs

    names = tuple(slices or ())
    if are_configs(arms):
        columns_of_files = {"row-id": row_id, "user": user, "label": label, "prediction": prediction}
        _refuse({**columns_of_files, "time": time}, "files of predictions", "experiments")
        settings = {"evaluation.replicates": replicates, "evaluation.level": level}
        output = (report, details, as_json)
        how = _ConfigComparison(
            seeds or SEEDS, prepared, runs, jobs, *output, budgets, effect, names, baseline, dry_run
        )
        return _compare_configs(_experiments(arms, data, baseline, settings), how)
    of_configs = {"seeds": seeds, "budgets": budgets or None, "data": data, "jobs": jobs}
    _refuse({**of_configs, "dry-run": dry_run or None}, "experiments", "finished runs and files")

    from recsys.comparison.judge import Options

    settings_of_files = (
        baseline,
        replicates or Options.replicates,
        Options.level if level is None else level,
    )
    columns = _columns(row_id, label, prediction, user)
    options = Options(*settings_of_files, effect, names, time, columns)
    _compare_predictions(arms, options, report, details, as_json)


def _columns(row_id: str | None, label: str | None, prediction: str | None, user: str | None) -> Any:
    """Return the columns of files of predictions."""
    from recsys.comparison.predictions import Columns

    return Columns(row_id or Columns.row_id, label or Columns.label, prediction or Columns.prediction, user)


def _refuse(options: Mapping[str, Any], of: str, arguments: str) -> None:
    """Refuse options that are for arguments of another kind."""
    if named := [f"--{name}" for name, value in options.items() if value is not None]:
        raise ValueError(f"{', '.join(named)}: of {of} only, and these are {arguments}; leave it out")


def _experiments(
    arms: Sequence[str], data: str | None, baseline: str | None, settings: Mapping[str, Any]
) -> list[Any]:
    """Load the configurations, the baseline first; whether there is such a one is checked with their budgets."""
    from recsys.comparison.predictions import named
    from recsys.config import load_experiment

    common = {key: value for key, value in settings.items() if value is not None}
    experiments = []
    for argument in arms:
        name, path = named(argument)
        changes = common if name is None else {**common, "name": name}
        experiment = load_experiment(path, data)
        experiments.append(experiment.replace(changes, where=str(path)) if changes else experiment)
    first = (baseline, None if baseline is None else baseline.rpartition("@")[0])
    return sorted(experiments, key=lambda experiment: experiment.name not in first)


def _compare_configs(experiments: Sequence[Any], how: _ConfigComparison) -> None:
    """Train what is missing, compare, and show the result."""
    from recsys.comparison.budgets import with_budgets
    from recsys.comparison.experiments import run_comparison

    budgets = [budget.strip() for budget in how.budgets.split(",") if budget.strip()]
    arms = with_budgets(experiments, budgets)
    if how.dry_run:
        return _print_cost(arms, how)
    with bars(how.runs, how.prepared) as show:
        result = run_comparison(
            arms,
            how.seeds,
            how.runs,
            how.prepared,
            how.jobs,
            show,
            prepare_progress=preparing(show),
            effect=how.effect,
            slices=how.slices,
            baseline=how.baseline,
            before=lambda candidates: _announce(candidates, how),
        )
    for prepared_set in {arm.runs[0].prepared_path: arm.runs[0].prepared() for arm in result.arms}.values():
        with_doubts(prepared_set)
    _show_experiments(result, how.report, how.details, how.as_json)


def _print_cost(arms: Sequence[Any], how: _ConfigComparison) -> None:
    """Print what a comparison takes, and train nothing."""
    from recsys.comparison.candidates import check_alike
    from recsys.comparison.cost import expected_cost

    check_alike(arms)
    with bars(how.runs, how.prepared) as show:
        jobs = _at_once(arms, how.jobs)
        cost = expected_cost(arms, how.seeds, how.runs, how.prepared, jobs, show, preparing(show))
    print_cost(cost, how.as_json)


def _announce(candidates: Sequence[Any], how: _ConfigComparison) -> None:
    """Say what is to be expected, where it is long."""
    from recsys.comparison.cost import cost_if_long

    jobs = _at_once([arm.config for arm in candidates], how.jobs)
    if cost := cost_if_long(candidates, how.seeds, how.runs, jobs):
        trainings = " and ".join(f"{number} {step}" for step, number in cost.runs.items() if number)
        announce(f"expect {trainings}: {cost.sentence} (by the speed of {candidates[0].config.name})")


def _at_once(configs: Sequence[Any], jobs: int | None) -> int:
    """Return how many trainings run at a time."""
    from recsys.comparison.pool import jobs_at_once

    return jobs_at_once(configs, jobs)


def _compare_predictions(
    arguments: Sequence[str], options: Any, report: Path, details: bool, as_json: bool
) -> None:
    """Compare finished runs or files of predictions, and show the result."""
    from recsys.comparison.judge import judge
    from recsys.comparison.predictions import find_arms
    from recsys.reports import comparison as reports
    from recsys.reports.answer import answer, answer_sheet

    arms = find_arms(arguments)
    judgement = judge(arms, options)
    reports.write_comparison(judgement, arms, report)
    if as_json:
        return print_json({**reports.comparison_json(judgement, arms), "report": str(report)})
    sizes = reports.bytes_by_arm(arms)
    lines = [*reports.power_lines(judgement), *reports.verdicts(judgement), reports.summary(judgement)]
    sheets = [answer_sheet(judgement, sizes), *reports.detail_sheets(judgement, arms)]
    print_result(answer(judgement, sizes), sheets, details, lines, report=report)


def _show_experiments(result: Any, report: Path, details: bool, as_json: bool) -> None:
    """Write the report of compared experiments, and print the result."""
    from recsys.reports import experiments as reports
    from recsys.reports.comparison import power_lines

    reports.write_report(result, report)
    if as_json:
        sentences = {"summary": reports.summary(result), "verdict": reports.verdict(result)}
        return print_json({**result.to_dict(), **sentences, "report": str(report)})
    for line in [f"left out: {why}" for why in result.left_out.values()] + reports.baseline_lines(result):
        out.print(line, style="yellow", markup=False, highlight=False)
    lines = [*power_lines(result.judged), *reports.verdict(result), reports.summary(result)]
    sheets = [reports.result_sheet(result), *reports.detail_sheets(result)]
    print_result(reports.result_answer(result), sheets, details, lines, report=report)
