"""The judgement of arms by their predictions: paired, compared, within slices, and as days pass.

Both ways to a comparison end here: configurations that `experiments` trained, and finished runs or files of predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from recsys.comparison.predictions import Columns, Predictions, tables
from recsys.comparison.slicing import by_column, by_day, by_time, time_numbers
from recsys.evaluation.arms.compare import Comparison, Difference, Interval, compare
from recsys.evaluation.arms.daily import daily_loss_difference
from recsys.evaluation.arms.intervals import difference_interval, margin_interval
from recsys.evaluation.arms.pairing import Paired, pair
from recsys.evaluation.arms.power import contrast_of, first_step, power_sentence, units_needed
from recsys.evaluation.arms.slices import Sliced, Slicing, compare_slices
from recsys.evaluation.metrics import auc, row_loss
from recsys.evaluation.online.sequential import ConfidenceSequence, confidence_sequence

MOST_DAYS = 3660  # of a path, ten years: its days have a covariance each with each
ROLES = ("row_id", "label", "prediction", "user_id")  # of columns, once read


@dataclass(frozen=True)
class Options:
    """Options of a judgement.

    Attributes:
        baseline: Name of the arm that the others are compared with; the first unless given.
        replicates: Replicates of the bootstrap.
        level: Level of the intervals.
        effect: The smallest difference in AUC that matters.
        slices: What to slice the rows by.
        time: Column of the time in files.
        columns: Names of the other columns in files.
    """

    baseline: str | None = None
    replicates: int = 1000
    level: float = 0.95
    effect: float | None = None
    slices: tuple[str, ...] = ()
    time: str | None = None
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        if self.effect is not None and not 0 < self.effect < 1:
            raise ValueError(
                f"effect is {self.effect}: give the smallest difference in AUC that matters, within (0, 1)"
            )


@dataclass(frozen=True)
class Power:
    """What the test can detect of one arm's difference in AUC, and whether the arm is worse by an effect that matters.

    Where there is no verdict the arm is neither `worse` nor `not_worse`, and interval, detectable effect and units are
    None. Where nothing varies it is not worse only if the rankings are the same.

    Attributes:
        units: Rows, or users, of the comparison.
        units_needed: How many would find `effect` with power 80 % in the verdict's test, of several arms at Holm's first
            step; None without an effect, and where the seeds alone vary too much for any number of rows.
        interval: Of all arms at once (Bonferroni), so that it never says else than the verdict; where the difference's own
            is above −effect, its low end is lower (`margin_interval`).
        not_worse: Whether the arm is, by the interval, not worse than the baseline less `effect`; None without an effect.
        worse: Whether it is worse than that; None without an effect.
        sentence: All of it in words.
    """

    arm: str
    minimum_detectable_effect: float | None
    effect: float | None
    units: int
    units_needed: int | None
    interval: Interval | None
    not_worse: bool | None
    worse: bool | None
    sentence: str


@dataclass(frozen=True)
class DailyPath:
    """The difference in log loss after each day, with intervals that hold on all days of all arms at once.

    `days` holds their names; in the sequence they are numbers.
    """

    arm: str
    days: tuple[str, ...]
    sequence: ConfidenceSequence


@dataclass(frozen=True)
class Judgement:
    """Everything said of the arms; `seeds` holds the value of a metric for each seed, by metric, then arm."""

    comparison: Comparison
    power: tuple[Power, ...]
    sliced: Sliced
    paths: tuple[DailyPath, ...]
    seeds: dict[str, dict[str, list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "comparison": self.comparison.to_dict(),
            "power": [asdict(power) for power in self.power],
            "slices": self.sliced.to_dict(),
            "daily": [asdict(path) for path in self.paths],
            "seeds": self.seeds,
        }

    @property
    def auc(self) -> list[Difference]:
        """Return the differences in AUC, one for each arm but the baseline."""
        return [d for d in self.comparison.differences if d.metric == "auc"]


def judge(arms: Mapping[str, Sequence[Predictions]], options: Options = Options()) -> Judgement:
    """Pair the predictions row by row and compare every arm with the baseline, the first unless it is named.

    Raises:
        ValueError: Predictions cannot be read or paired, the baseline is unknown, or slices cannot be made.
    """
    if options.baseline is not None and options.baseline not in arms:
        raise ValueError(
            f"baseline {options.baseline!r} is not among the arms: choose one of {', '.join(arms)}"
        )
    baseline = options.baseline or next(iter(arms))
    paired, slicings, days = _paired(arms, baseline, options)
    comparison = compare(
        paired.arms,
        paired.labels,
        clusters=paired.clusters,
        baseline=baseline,
        replicates=options.replicates,
        level=options.level,
    )
    sliced = compare_slices(
        paired,
        slicings,
        baseline,
        options.replicates,
        level=options.level,
        overall=comparison.differences,
    )
    return Judgement(
        comparison=comparison,
        power=tuple(
            _power(d, comparison, options.effect) for d in comparison.differences if d.metric == "auc"
        ),
        sliced=sliced,
        paths=_paths(paired, days, baseline, options.level),
        seeds=_by_seed(paired),
    )


def _paired(
    arms: Mapping[str, Sequence[Predictions]], baseline: str, options: Options
) -> tuple[Paired, list[Slicing], Slicing | None]:
    """Pair the predictions; return the slices of their rows, too, and their days where these can be followed."""
    runs = all(predictions.run is not None for seeds in arms.values() for predictions in seeds)
    _check_columns(options, runs)
    extra = () if runs else _columns_of(options)
    paired = pair(
        {name: tables(seeds, options.columns, extra, options.time) for name, seeds in arms.items()},
        {name: [predictions.source for predictions in seeds] for name, seeds in arms.items()},
        extra,
    )
    _refuse_copies(arms, paired)
    slicings, days = (
        _run_slicings(arms, baseline, options, paired) if runs else _file_slicings(options, paired)
    )
    return paired, slicings, days


def _by_seed(paired: Paired) -> dict[str, dict[str, list[float]]]:
    """Return AUC and log loss of every seed, by metric, then arm."""
    labels = paired.labels
    return {
        "auc": {name: [auc(labels, p) for p in seeds] for name, seeds in paired.arms.items()},
        "logloss": {
            name: [float(row_loss(labels, p).mean()) for p in seeds] for name, seeds in paired.arms.items()
        },
    }


def _refuse_copies(arms: Mapping[str, Sequence[Predictions]], paired: Paired) -> None:
    """Refuse two files of one arm that hold the same predictions, whatever their names, formats and order of rows.

    They would count as two seeds that hardly vary. Runs are known to have seeds of their own.
    """
    for name, seeds in arms.items():
        first: dict[bytes, Predictions] = {}  # by digest
        for predictions, values in zip(seeds, paired.arms[name], strict=True):
            twin = first.setdefault(sha256(values).digest(), predictions)
            if twin is not predictions and (predictions.run is None or twin.run is None):
                raise ValueError(
                    f"{name}: {predictions.source} holds the same predictions as {twin.source}: give each seed once"
                )


def _check_columns(options: Options, runs: bool) -> None:
    """Refuse options that do not go with runs, or with files."""
    if runs and (options.time is not None or options.columns != Columns()):
        raise ValueError(
            "the columns of runs are known: --time, --row-id, --user, --label and --prediction are of files"
        )
    if not runs and "time" in options.slices and options.time is None:
        raise ValueError(
            "--slice time: name the column of the time with --time, or slice by the column itself"
        )
    if runs:
        return
    columns = options.columns
    paired_by = {*ROLES, columns.row_id, columns.label, columns.prediction, columns.user}
    for option, names in (("slice", options.slices), ("time", (options.time,))):
        for name in names:
            if name is not None and name in paired_by:
                raise ValueError(f"--{option} {name}: rows are paired by it; {option} by another column")


def _columns_of(options: Options) -> tuple[str, ...]:
    """Return further columns to read of files."""
    names = [options.time if name == "time" else name for name in options.slices]
    return tuple(dict.fromkeys(name for name in (*names, options.time) if name is not None))


def _file_slicings(options: Options, paired: Paired) -> tuple[list[Slicing], Slicing | None]:
    """Return the slices of files, and their days where they have a time."""
    if options.time is None:
        return [by_column(name, paired.attributes[name]) for name in options.slices], None
    times, scale = time_numbers(options.time, paired.attributes[options.time])
    days = by_day("time", times, scale)
    if not _can_be_followed(days):
        raise ValueError(
            f"--time {options.time}: its days are {len(days.names):,}, from {days.names[0]} on, and a path has 2 to "
            f"{MOST_DAYS:,}: name a column of dates, or leave --time out"
        )
    return [
        by_time("time", times, scale) if name == "time" else by_column(name, paired.attributes[name])
        for name in options.slices
    ], days


def _run_slicings(
    arms: Mapping[str, Sequence[Predictions]], baseline: str, options: Options, paired: Paired
) -> tuple[list[Slicing], Slicing | None]:
    """Return the slices of runs' test rows, and their days where the data name a time that can be followed."""
    from recsys.comparison.slices_of_runs import run_slicings, run_times

    order = [baseline, *(name for name in arms if name != baseline)]
    firsts = [run for name in order if (run := arms[name][0].run) is not None]
    times = run_times(firsts[0], paired.row_ids)
    days = None if times is None else by_day("time", times)
    return (
        run_slicings(firsts, options.slices, paired.row_ids) if options.slices else [],
        days if days is not None and _can_be_followed(days) else None,
    )


def _can_be_followed(days: Slicing) -> bool:
    return 2 <= len(days.names) <= MOST_DAYS


def _power(d: Difference, comparison: Comparison, effect: float | None) -> Power:
    """Return what the test can detect of one difference in AUC."""
    units = comparison.clusters or comparison.rows
    seeds = min(arm.seeds for arm in comparison.arms if arm.name in (d.arm, d.baseline))
    unit = "rows" if comparison.clusters is None else "users"
    arms = len(comparison.arms) - 1
    alpha = first_step(comparison.level, arms)
    interval = None if d.no_verdict else difference_interval(d.metric, contrast_of(d), 1 - alpha)
    if interval is not None and effect is not None and interval[0] > -effect:
        aucs = {arm.name: arm.auc for arm in comparison.arms}
        interval = margin_interval(
            contrast_of(d), (aucs[d.arm], aucs[d.baseline]), d.support.holding, 1 - alpha
        )
    known = d.standard_error > 0 or d.support.same
    low, high = interval if interval is not None and known else (-1.0, 1.0)
    return Power(
        arm=d.arm,
        minimum_detectable_effect=d.minimum_detectable_effect,
        effect=effect,
        units=units,
        units_needed=None if effect is None or d.no_verdict else units_needed(d, units, effect, alpha=alpha),
        interval=interval,
        not_worse=None if effect is None else low > -effect,
        worse=None if effect is None else high < -effect,
        sentence=power_sentence(d, units, seeds, unit, effect, comparison.level, arms),
    )


def _paths(paired: Paired, days: Slicing | None, baseline: str, level: float) -> tuple[DailyPath, ...]:
    """Return a confidence sequence for each arm; their errors add up to 1 - level."""
    if days is None:
        return ()
    losses = {name: row_loss(paired.labels, values).mean(axis=0) for name, values in paired.arms.items()}
    others = [name for name in paired.arms if name != baseline]
    return tuple(
        DailyPath(
            name,
            days.names,
            confidence_sequence(
                range(len(days.names)),
                daily_loss_difference(
                    losses[name] - losses[baseline], days.codes, len(days.names), paired.clusters
                ),
                alpha=(1 - level) / len(others),
            ),
        )
        for name in others
    )
