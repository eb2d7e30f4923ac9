"""The report of a comparison: sentences, the same tables in a terminal and in HTML, and everything as JSON.

`experiments` adds bytes and training to it where the arms are configurations.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recsys.comparison.judge import DailyPath, Judgement, Power
from recsys.comparison.predictions import Arms
from recsys.evaluation.arms.compare import Comparison, Difference
from recsys.evaluation.arms.slices import SliceEffect
from recsys.reports.answer import answer, answer_sheet
from recsys.reports.bytes import bytes_sheets
from recsys.reports.page import Picture, drawn, write_html
from recsys.reports.sheet import TITLES, Sheet

WORDS = {"better": "better than", "worse": "worse than", "undecided": "not told apart from"}
DIFFERENCES = {"calibration": "calibration's distance from 1"}  # what differs, unless the metric itself does
DIGITS = {"logloss": 5, "calibration": 3}  # decimals of a metric; four of others


def comparison_json(judged: Judgement, arms: Arms) -> dict[str, Any]:
    """Return everything as plain values, with the sentences and where the predictions came from."""
    sources = {name: [predictions.source for predictions in seeds] for name, seeds in arms.items()}
    return {
        "summary": summary(judged),
        "verdict": verdicts(judged),
        "arms": sources,
        "bytes": bytes_by_arm(arms),
        **judged.to_dict(),
    }


def bytes_by_arm(arms: Arms) -> dict[str, dict[str, int]]:
    """Return what finished runs record of their bytes, by arm; files of predictions record none."""
    firsts = {name: seeds[0].run for name, seeds in arms.items()}
    return {name: run.metrics["bytes"] for name, run in firsts.items() if run is not None}


def summary(judged: Judgement) -> str:
    """Say in two sentences how all arms did."""
    counts = {word: sum(d.verdict == word for d in judged.auc) for word in WORDS}
    text = (
        f"Against {judged.comparison.baseline}, in AUC: {counts['better']} better, {counts['worse']} worse, "
        f"{counts['undecided']} not told apart from it"
    )
    without = sum(d.no_verdict is not None for d in judged.auc)
    if without:
        text += f", {without} of them for want of data"
    best = judged.comparison.best["auc"]
    if not best:
        return f"{text}. There is too little for a verdict, and so for the probability of being the best arm."
    likely = max(best, key=lambda name: best[name])
    return f"{text}. The probability of being the best arm is largest for {likely}: {best[likely]:.0%}."


def verdicts(judged: Judgement) -> list[str]:
    """Return one sentence for each arm but the baseline."""
    return [
        sentence(d, judged.comparison, power=power) for d, power in zip(judged.auc, judged.power, strict=True)
    ]


def sentence(d: Difference, comparison: Comparison, aside: str = "", power: Power | None = None) -> str:
    """Return the verdict on one arm's AUC; `aside` stands after its name."""
    result = f"{d.arm}{aside} is {WORDS[d.verdict]} {d.baseline} in AUC: {d.estimate:+.4f}"
    if d.interval is None or d.minimum_detectable_effect is None:
        effect = None if power is None else power.effect
        aim = f" Whether it is worse than {d.baseline} by more than {effect:g} is undecided, too."
        return f"{result} ({d.note}).{'' if effect is None else aim}"
    low, high = d.interval
    arms = len(comparison.arms) - 1
    test = "the test" if arms == 1 else f"the first step of Holm's test over {arms} arms"
    text = (
        f"{result} ({comparison.level:.0%} interval {low:+.4f} to {high:+.4f}, Holm-adjusted p = "
        f"{d.adjusted_p_value:.3g}; {test} finds ±{d.minimum_detectable_effect:.4f} four times in five"
        f"{'' if d.note is None else '; ' + d.note})."
    )
    return text if power is None else text + _margin_sentence(d, power, arms)


def _margin_sentence(d: Difference, power: Power, arms: int) -> str:
    """Say whether the arm is worse by more than the effect that matters; empty without one."""
    if power.effect is None or power.interval is None:
        return ""
    low, high = power.interval
    interval = f"the interval {low:+.4f} to {high:+.4f}" + (
        f" (Bonferroni over {arms} arms)" if arms > 1 else ""
    )
    against = f" Against {d.baseline} it is"
    margin = f"−{power.effect:g}"
    if power.not_worse:
        return f"{against} not worse than {margin}: {interval} is above."
    if power.worse:
        return f"{against} worse than {margin}: {interval} is below."
    why = f"{interval} holds {margin}" if low < high else "nothing varies"
    return f" Whether it is worse than {d.baseline} by more than {power.effect:g} is undecided: {why}."


def power_lines(judged: Judgement) -> list[str]:
    """Return what the test can detect, which is known before its verdict."""
    return [f"{power.arm}: {power.sentence}" for power in judged.power]


def arms_sheet(judged: Judgement) -> Sheet:
    """Return a table of every metric of every arm."""
    names = list(judged.comparison.arms[0].metrics)
    rows = []
    for arm in judged.comparison.arms:
        cells = [arm.name, str(arm.seeds)]
        for name in names:
            estimate = arm.metrics[name]
            cells += [_number(estimate.value, name), _range(estimate.interval, name)]
        std = arm.metrics["auc"].seed_std
        rows.append((*cells, "–" if std is None else f"{std:.4f}"))
    headers = ["arm", "seeds"]
    for name in names:
        headers += [TITLES[name], "interval"]
    return Sheet(
        "Metrics of the arms",
        (*headers, "AUC ± seeds"),
        rows,
        f"Means over seeds with {judged.comparison.level:.0%} intervals over rows and seeds. AUC counts ties half; logloss "
        "is in nats; NE is logloss over the entropy of the base rate; calibration is Σp/Σy.",
    )


def differences_sheet(comparison: Comparison, title: str = "", folded: bool = False) -> Sheet:
    """Return a table of paired differences: intervals and p-values of every metric."""
    rows = [
        (
            d.arm,
            DIFFERENCES.get(d.metric, TITLES[d.metric]),
            _number(d.estimate, d.metric, "+"),
            _range_or_dash(d.interval, d.metric),
            _range_or_dash(d.bca_interval, d.metric),
            *(
                "–" if d.no_verdict else f"{p:.2g}"
                for p in (d.p_value, d.adjusted_p_value, d.false_discovery_p_value)
            ),
            "–" if d.delong_p_value is None else f"{d.delong_p_value:.2g}",
            _seed_share(d),
            d.verdict_word,
        )
        for d in comparison.differences
    ]
    notes = sorted({d.note for d in comparison.differences if d.note})
    return Sheet(
        title or f"Differences from {comparison.baseline}",
        (
            *("arm", "metric", "difference", f"{comparison.level:.0%} interval", "BCa, rows only"),
            *("p", "p (Holm)", "p (BH)", "p (DeLong)", "variance of seeds", "verdict"),
        ),
        rows,
        "Interval: rows and seeds, not adjusted for the number of arms; the verdict is, by Holm over arms. Calibration is "
        "better the nearer to 1, so its differences are of the distance from 1. BCa: "
        "bias-corrected bootstrap interval with seeds held fixed, a little short with few users. BH: Benjamini–Hochberg. "
        "DeLong assumes independent rows: "
        "a fast check, never the verdict." + "".join(f" {note[0].upper()}{note[1:]}." for note in notes),
        folded,
        keys=2,
    )


def best_sheet(comparison: Comparison) -> Sheet:
    """Return a table of the probability that each arm is the best."""
    metrics = list(comparison.best)
    return Sheet(
        "Probability of being the best arm",
        ("arm", *(TITLES[metric] for metric in metrics)),
        [
            (
                arm.name,
                *(
                    f"{comparison.best[metric][arm.name]:.1%}" if arm.name in comparison.best[metric] else "–"
                    for metric in metrics
                ),
            )
            for arm in comparison.arms
        ],
        "Over resampled rows and seeds. A probability, not a verdict: it says nothing of how much better. "
        "–: there is too little data for a verdict on the arm, and so for a probability.",
    )


def slice_sheets(judged: Judgement) -> list[Sheet]:
    """Return where arms differ: a table for each dimension; then the slices without a number, and why."""
    sliced = judged.sliced
    sheets = [_slice_sheet(judged, dimension) for dimension in sliced.sizes]
    if sliced.skipped:
        rows = [(skip.dimension, skip.slice, f"{skip.rows:,}", skip.reason) for skip in sliced.skipped]
        sheets.append(Sheet("Skipped slices", ("slices by", "slice", "rows", "why there is no number"), rows))
    return sheets


def daily_sheets(judged: Judgement) -> list[Sheet]:
    """Return a table for the path of each arm's difference in log loss over days."""
    return [_daily_sheet(path) for path in judged.paths]


def main_sheets(judged: Judgement) -> list[Sheet]:
    """Return the tables that follow the verdict."""
    return [arms_sheet(judged), differences_sheet(judged.comparison), best_sheet(judged.comparison)]


def detail_sheets(judged: Judgement, arms: Arms) -> list[Sheet]:
    """Return the tables behind the answer: bytes, metrics, differences, slices and days."""
    sheets = [*bytes_sheets(bytes_by_arm(arms)), *main_sheets(judged)]
    return [*sheets, *slice_sheets(judged), *daily_sheets(judged)]


def _first_picture(judged: Judgement, arms: Arms) -> Picture | None:
    """Return quality against bytes; None where the bytes of an arm are not known, and all pictures are of differences."""
    sizes = bytes_by_arm(arms)
    if len(sizes) < len(arms):
        return None
    from recsys.reports.pictures.comparison import quality_against_bytes  # here, for it needs matplotlib

    return quality_against_bytes(judged, sizes, {name: name for name in arms})


def write_comparison(judged: Judgement, arms: Arms, path: Path | str) -> None:
    """Render the comparison of runs or files into a self-contained HTML file."""
    comparison = judged.comparison
    write_html(
        path,
        "comparison.html.j2",
        title=f"Comparison of {len(arms)} arms",
        answer=answer(judged, bytes_by_arm(arms)),
        picture=_first_picture(judged, arms),
        table=answer_sheet(judged, bytes_by_arm(arms)),
        comparison=comparison,
        one_seed=any(arm.seeds == 1 for arm in comparison.arms),
        power=power_lines(judged),
        summary=summary(judged),
        verdicts=verdicts(judged),
        sheets=detail_sheets(judged, arms),
        pictures=drawn(lambda: _pictures(judged)),
        sources={name: [predictions.source for predictions in seeds] for name, seeds in arms.items()},
    )


def _pictures(judged: Judgement) -> list[Picture]:
    from recsys.reports.pictures.comparison import comparison_pictures  # here, for it needs matplotlib

    return comparison_pictures(judged)


def _slice_sheet(judged: Judgement, dimension: str) -> Sheet:
    sliced = judged.sliced
    sizes = sliced.sizes[dimension]
    effects = {(e.slice, e.arm, e.metric): e for e in sliced.effects if e.dimension == dimension}
    skipped = [skip for skip in sliced.skipped if skip.dimension == dimension]
    note = f"{sum(sizes.values()):,} rows, each in one of {len(sizes)} slices"
    if skipped:
        note += f"; {sum(skip.rows for skip in skipped):,} rows in the {len(skipped)} that are skipped"
    note += f". {sliced.notes.get(dimension, '')} p-values are adjusted over all slices and arms. "
    spreads = [
        f"{spread.arm} {spread.mean:+.4f} ± {spread.deviation:.4f}"
        for spread in sliced.spreads
        if (spread.dimension, spread.metric) == (dimension, "auc") and spread.deviation is not None
    ]
    if spreads:
        note += (
            "Shrunk: towards the mean of the slices, by empirical Bayes, the more the less a slice knows. True differences "
            f"are estimated to vary over slices as {'; '.join(spreads)} (few slices cannot show it)."
        )
    else:
        note += "Fewer than four slices are not shrunk."
    return Sheet(
        f"Slices by {dimension}",
        (
            *("slice", "arm", "rows", "positive", "AUC difference", "interval", "shrunk", "shrunk interval"),
            *("p (Holm)", "p (BH)", "logloss difference"),
        ),
        [
            _slice_row(effects[name, d.arm, "auc"], effects[name, d.arm, "logloss"])
            for name in sizes
            for d in judged.auc
            if (name, d.arm, "auc") in effects
        ],
        note.replace("  ", " "),
        keys=2,
    )


def _slice_row(auc: SliceEffect, logloss: SliceEffect) -> tuple[str, ...]:
    return (
        auc.slice,
        auc.arm,
        f"{auc.rows:,}",
        f"{auc.positives:,}",
        f"{auc.estimate:+.4f}",
        _range(auc.interval, "auc", "+"),
        f"{auc.shrunk:+.4f}",
        _range(auc.shrunk_interval, "auc", "+"),
        f"{auc.adjusted_p_value:.2g}",
        f"{auc.false_discovery_p_value:.2g}",
        f"{logloss.estimate:+.5f}",
    )


def _daily_sheet(path: DailyPath) -> Sheet:
    sequence = path.sequence
    rows = []
    columns: Iterable[Any] = zip(
        path.days, sequence.days, sequence.estimates, sequence.intervals, sequence.p_values, strict=True
    )
    for name, day, value, interval, p in columns:
        known = interval is not None and p is not None
        rows.append(
            (
                name,
                f"{value:+.5f}",
                _range(interval, "logloss", "+") if known else "too few users",
                f"{p:.2g}" if known else "–",
                "decided" if day == sequence.decided_on else "",
            )
        )
    return Sheet(
        f"Day by day: logloss of {path.arm}",
        ("up to", "difference so far", "interval for any day", "p for any day", ""),
        rows,
        f"Confidence sequence: the intervals of all days hold at once with {1 - sequence.alpha:.4g}, however often one "
        "looks. Unit: the user, or the row where no users are known; the spread over training seeds is not in it.",
        folded=True,
    )


def _seed_share(d: Difference) -> str:
    """Return the share of a difference's variance that training seeds have."""
    if d.seed_variance is None:
        return "one seed"
    total = d.row_variance + d.seed_variance
    return "–" if total == 0 else f"{d.seed_variance / total:.0%}"


def _range_or_dash(ends: tuple[float, float] | None, metric: str) -> str:
    return "–" if ends is None else _range(ends, metric, "+")


def _number(value: float, metric: str, sign: str = "") -> str:
    return f"{value:{sign}.{DIGITS.get(metric, 4)}f}"


def _range(ends: tuple[float, float], metric: str, sign: str = "") -> str:
    between = " to " if sign else "–"
    return between.join(_number(value, metric, sign) for value in ends)
