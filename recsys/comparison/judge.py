"""What is said of arms whose predictions are there: paired, compared, within slices, and as days pass.

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
    """How predictions are judged. effect: the smallest difference in AUC that matters. time: a column of the files."""

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
    """What the test can find of one arm's difference in AUC, whatever it found.

    `units_needed` (rows, or users) would find `effect` with power 80 % in the verdict's test, of several arms at Holm's
    first step; None without an effect, and where the seeds alone vary too much for any number of rows.

    `interval`: of all arms at once (Bonferroni), so that it never says else than the verdict; where the
    difference's own is above −effect, its low end is lower (`margin_interval`). By it the arm is
    `not_worse` than the baseline less `effect`, or `worse`, or neither; None without an effect. Where there is no verdict
    it is neither, and interval, detectable effect and units are None. Where nothing varies it is not worse only if the
    rankings are the same.
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
    """Difference in log loss after each day, with intervals that hold on all days of all arms at once.

    `days` are called by name; in the sequence they are numbers.
    """

    arm: str
    days: tuple[str, ...]
    sequence: ConfidenceSequence


@dataclass(frozen=True)
class Judgement:
    """Everything said of the arms; `seeds`: metric -> arm -> its value for each seed."""

    comparison: Comparison
    power: tuple[Power, ...]
    sliced: Sliced
    paths: tuple[DailyPath, ...]
    seeds: dict[str, dict[str, list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "comparison": self.comparison.to_dict(),
            "power": [asdict(power) for power in self.power],
            "slices": self.sliced.to_dict(),
            "daily": [asdict(path) for path in self.paths],
            "seeds": self.seeds,
        }

    @property
    def auc(self) -> list[Difference]:
        """Differences in AUC, one for each arm but the baseline."""
        return [d for d in self.comparison.differences if d.metric == "auc"]


def judge(arms: Mapping[str, Sequence[Predictions]], options: Options = Options()) -> Judgement:
    """Pair the predictions row by row and compare every arm with the baseline, the first unless it is named.

    Errors (ValueError): predictions that cannot be read or paired, an unknown baseline, slices that cannot be made.
    """
    if options.baseline is not None and options.baseline not in arms:
        raise ValueError(
            f"baseline {options.baseline!r} is not among the arms: choose one of {', '.join(arms)}"
        )
    baseline = options.baseline or next(iter(arms))
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
    comparison = compare(
        paired.arms,
        paired.labels,
        clusters=paired.clusters,
        baseline=baseline,
        replicates=options.replicates,
        level=options.level,
    )
    return Judgement(
        comparison=comparison,
        power=tuple(
            _power(d, comparison, options.effect) for d in comparison.differences if d.metric == "auc"
        ),
        sliced=compare_slices(
            paired,
            slicings,
            baseline,
            options.replicates,
            level=options.level,
            overall=comparison.differences,
        ),
        paths=_paths(paired, days, baseline, options.level),
        seeds={
            "auc": {name: [auc(paired.labels, p) for p in values] for name, values in paired.arms.items()},
            "logloss": {
                name: [float(row_loss(paired.labels, p).mean()) for p in values]
                for name, values in paired.arms.items()
            },
        },
    )


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
    """Further columns to read of files."""
    wanted = [options.time if name == "time" else name for name in options.slices]
    return tuple(dict.fromkeys(name for name in (*wanted, options.time) if name is not None))


def _file_slicings(options: Options, paired: Paired) -> tuple[list[Slicing], Slicing | None]:
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
    """A confidence sequence for each arm, whose errors add up to 1 - level."""
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
