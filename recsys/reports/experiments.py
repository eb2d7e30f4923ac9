"""The report of a comparison of configurations: that of `comparison`, and bytes, training and data beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from recsys.comparison.budgets import arm_name
from recsys.comparison.experiments import Arm, Result
from recsys.evaluation.metrics import reliability
from recsys.reports.answer import answer, answer_sheet
from recsys.reports.bytes import bytes_sheets
from recsys.reports.comparison import (
    daily_sheets,
    differences_sheet,
    main_sheets,
    power_lines,
    sentence,
    slice_sheets,
)
from recsys.reports.page import Picture, png, write_html
from recsys.reports.pictures.comparison import comparison_pictures, quality_against_bytes
from recsys.reports.sheet import Sheet

matplotlib.use("Agg")


def write_report(result: Result, path: Path | str) -> None:
    """Render `result` into a self-contained HTML file, written under a temporary name first."""
    arm = result.arms[0]
    write_html(
        path,
        "experiments.html.j2",
        title=_title(result.arms),
        answer=result_answer(result),
        picture=quality_picture(result),
        table=result_sheet(result),
        power=power_lines(result.judged),
        summary=summary(result),
        verdict=verdict(result),
        data=arm.config.data.model_dump(mode="json", exclude_none=True),
        splits=arm.runs[0].prepared().manifest,
        rows=table_rows(result),
        sheets=detail_sheets(result),
        pictures=[
            *comparison_pictures(result.judged),
            _reliability_picture(result.arms),
            _curves_picture(result.arms),
        ],
        arms=result.arms,
        left_out=result.left_out,
        baselines=baseline_lines(result),
        comparison=result.overall,
        seeds=len(arm.runs),
        trials=trial_counts(result),
    )


def result_answer(result: Result) -> str:
    """Return the verdict in one plain sentence."""
    return answer(result.judged, {arm.name: arm.bytes for arm in result.arms})


def result_sheet(result: Result) -> Sheet:
    """Return the table of arms: bytes, quality, and verdicts."""
    return answer_sheet(result.judged, {arm.name: arm.bytes for arm in result.arms}, result.by_budget)


def detail_sheets(result: Result) -> list[Sheet]:
    """Return the tables behind the answer: bytes by kind, metrics, differences, slices, and each budget within itself."""
    return [
        *bytes_sheets({arm.name: arm.bytes for arm in result.arms}),
        *main_sheets(result.judged),
        *slice_sheets(result.judged),
        *daily_sheets(result.judged),
        *(
            differences_sheet(judged, f"At {budget}: differences from {judged.baseline}", folded=True)
            for budget, judged in result.by_budget.items()
        ),
    ]


def _title(arms: Sequence[Arm]) -> str:
    """Say how many arms there are, and what they are several of."""
    kinds: dict[str, set[Any]] = {
        "table schemes": {arm.config.tables.scheme for arm in arms},
        "budgets": {arm.budget for arm in arms},
        "sets of features": {tuple(n for f in arm.config.features for n in f.names) for arm in arms},
        "models": {arm.config.model.name for arm in arms},
    }
    several = ", ".join(f"{len(values)} {kind}" for kind, values in kinds.items() if len(values) > 1)
    return f"Comparison of {len(arms)} arms" + (f": {several}" if several else "")


def table_rows(result: Result) -> list[dict[str, Any]]:
    """Return one plain row per arm: what the terminal, the report and `--json` readers want first."""
    rows = []
    full = result.arms[0].bytes["full_table"]
    changes = {(d.arm, d.metric): d for d in result.overall.differences}
    for arm, judged in zip(result.arms, result.overall.arms, strict=True):
        tests = [run.metrics["test"] for run in arm.runs]
        limit = arm.runs[0].metrics["best_possible"]
        rows.append(
            {
                "arm": arm.name,
                "bytes": arm.bytes,
                "share": arm.bytes["total"] / full,
                "auc": judged.auc,
                "auc_interval": judged.auc_interval,
                "seed_std": judged.seed_std_auc,
                "logloss": judged.logloss,
                "logloss_interval": judged.logloss_interval,
                "ne": _mean(test["ne"] for test in tests),
                "calibration": _mean(test["calibration"] for test in tests),
                "gauc": None if tests[0]["gauc"] is None else _mean(test["gauc"] for test in tests),
                "auc_below_best": None if limit is None else limit["auc"] - judged.auc,
                "logloss_above_best": None if limit is None else judged.logloss - limit["logloss"],
                "auc_change": changes.get((arm.name, "auc")),
                "logloss_change": changes.get((arm.name, "logloss")),
                "settings": arm.settings,
                "seconds": _mean(run.metrics["training_seconds"] for run in arm.runs),
            }
        )
    return rows


def summary(result: Result) -> str:
    """Return the whole comparison in two sentences."""
    changes = [change for change in result.overall.differences if change.metric == "auc"]
    counts = {
        word: [c.arm for c in changes if c.verdict == word] for word in ("better", "worse", "undecided")
    }
    without = {c.arm for c in changes if c.no_verdict}
    not_worse = {result.overall.baseline, *counts["better"], *counts["undecided"]} - without
    lacking = f", {len(without)} of them for want of data" if without else ""
    smallest = min((arm for arm in result.arms if arm.name in not_worse), key=lambda arm: arm.bytes["total"])
    size = smallest.bytes["total"]
    return (
        f"Against {result.overall.baseline}, in AUC: {len(counts['better'])} arms are better, "
        f"{len(counts['worse'])} worse, {len(counts['undecided'])} not told apart from it{lacking}. The smallest arm not "
        f"found worse is {smallest.name}: {size:,} bytes, {size / smallest.bytes['full_table']:.1%} of the full table."
    )


def verdict(result: Result) -> list[str]:
    """Say in sentences which arm is smaller, which better, and whether the difference is real."""
    lines = []
    size = {arm.name: arm.bytes["total"] for arm in result.arms}
    power = {item.arm: item for item in result.judged.power}
    for family, comparison in [("", result.overall), *result.by_budget.items()]:
        where = f"At {family}: " if family else ""
        for change in comparison.differences:
            if change.metric != "auc":
                continue
            aside = f", in {size[change.arm] / size[change.baseline]:.1%} of the bytes,"
            lines.append(where + sentence(change, comparison, aside, None if family else power[change.arm]))
    return lines


def baseline_lines(result: Result) -> list[str]:
    """Say where the arm that was to be the baseline does not fit, and what others are compared with instead."""
    budgets = {arm.name: arm.budget for arm in result.arms}
    lines = []
    for budget, comparison in [(None, result.overall), *result.by_budget.items()]:
        name, where = comparison.baseline, "any budget" if budget is None else budget
        if arm_name(name, budgets[name]) != result.baseline_arm:
            lines.append(f"{result.baseline_arm} does not fit {where}: arms are compared with {name} there.")
    return lines


def trial_counts(result: Result) -> str:
    """Say how many settings each arm was tried with, and over what."""
    counts = sorted({len(arm.trials) for arm in result.arms})
    if counts == [0]:
        return "No arm was tuned: every arm ran with the settings of its file."
    keys = sorted({key for arm in result.arms for key in arm.config.tuning.space})
    same = (
        f"{counts[0]}"
        if len(counts) == 1
        else f"{counts[0]} to {counts[-1]} (fewer where fewer fit the budget)"
    )
    return f"Validation trials per arm: {same}, over {', '.join(keys)}; test data was not looked at."


def quality_picture(result: Result) -> Picture:
    """Draw the AUC of arms on test over their resident bytes, with intervals."""
    limit = result.arms[0].runs[0].metrics["best_possible"]
    return quality_against_bytes(
        result.judged,
        {arm.name: arm.bytes for arm in result.arms},
        {arm.name: arm_name(arm.name, arm.budget) for arm in result.arms},
        None if limit is None else limit["auc"],
    )


def _reliability_picture(arms: Sequence[Arm]) -> Picture:
    columns = min(4, len(arms))
    lines = -(-len(arms) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in panels[len(arms) :]:
        unused.set_axis_off()
    for axes, arm in zip(panels, arms, strict=False):
        table = arm.runs[0].predictions()
        bins = reliability(table["label"].to_numpy(), table["prediction"].to_numpy(), bins=10)
        low, high = bins.low, bins.high
        axes.errorbar(
            bins.mean_probability,
            bins.mean_label,
            yerr=[np.maximum(bins.mean_label - low, 0), np.maximum(high - bins.mean_label, 0)],
            fmt="o-",
            markersize=3,
        )
        top = float(max(bins.mean_probability.max(), high.max())) * 1.05
        axes.plot([0, top], [0, top], color="grey", linewidth=0.8)
        axes.set_title(arm.name, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("mean prediction (ten bins of equal mass, seed 0)", fontsize=8)
    figure.supylabel("observed click rate", fontsize=8)
    note = (
        "On the grey line predictions are what is observed; Wilson intervals, which assume independent rows."
    )
    return "Reliability on test", png(figure), note


def _curves_picture(arms: Sequence[Arm]) -> Picture:
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("auc", "logloss"), strict=True):
        for number, arm in enumerate(arms):
            for run in arm.runs:
                history = run.metrics["history"]
                axes.plot(
                    [entry["epoch"] for entry in history],
                    np.array(
                        [entry[f"validation_{metric}"] for entry in history], float
                    ),  # NaN where missing
                    color=matplotlib.colormaps["tab20"](number % 20),
                    label=arm.name if run is arm.runs[0] else None,
                    linewidth=1,
                    marker=".",
                    markersize=3,
                )
        axes.set(xlabel="epoch", ylabel=f"validation {metric}")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return "Training curves", png(figure), "On validation; one line for each seed."


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
