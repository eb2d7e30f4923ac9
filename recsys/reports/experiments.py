"""The report of a comparison of configurations: that of `comparison`, and bytes, training and data beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich.table import Table as Grid

from recsys.comparison.budgets import arm_name
from recsys.comparison.experiments import Arm, Result
from recsys.evaluation.metrics import reliability
from recsys.reports.bytes import bytes_sheets
from recsys.reports.comparison import (
    daily_sheets,
    differences_sheet,
    main_sheets,
    power_lines,
    sentence,
    slice_sheets,
)
from recsys.reports.comparison_pictures import comparison_pictures
from recsys.reports.page import Picture, png, write_html

matplotlib.use("Agg")

MARKERS = "osD^vP*X"


def write_report(result: Result, path: Path | str) -> None:
    """Render `result` into a self-contained HTML file, written under a temporary name first."""
    arm = result.arms[0]
    write_html(
        path,
        "experiments.html.j2",
        title=_title(result.arms),
        power=power_lines(result.judged),
        summary=summary(result),
        verdict=verdict(result),
        data=arm.config.data.model_dump(mode="json", exclude_none=True),
        splits=arm.runs[0].prepared().manifest,
        rows=table_rows(result),
        by_budget=result.by_budget,
        sheets=[*bytes_sheets({arm.name: arm.bytes for arm in result.arms}), *main_sheets(result.judged)],
        pictures=[
            quality_picture(result),
            *comparison_pictures(result.judged),
            _reliability_picture(result.arms),
            _curves_picture(result.arms),
        ],
        details=[
            *slice_sheets(result.judged),
            *daily_sheets(result.judged),
            *(
                differences_sheet(judged, f"At {budget}: differences from {judged.baseline}", folded=True)
                for budget, judged in result.by_budget.items()
            ),
        ],
        arms=result.arms,
        left_out=result.left_out,
        baselines=baseline_lines(result),
        comparison=result.overall,
        seeds=len(arm.runs),
        trials=trial_counts(result),
    )


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
    baselines = {item.baseline for item in result.by_budget.values()}
    within = {d.arm: d for item in result.by_budget.values() for d in item.differences if d.metric == "auc"}
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
                "auc_change_at_budget": within.get(arm.name),
                "is_baseline_at_budget": arm.name in baselines,
                "logloss_change": changes.get((arm.name, "logloss")),
                "settings": arm.settings,
                "seconds": _mean(run.metrics["training_seconds"] for run in arm.runs),
            }
        )
    return rows


def arms_grid(result: Result) -> Grid:
    """Return the table of arms for a terminal: bytes, quality, and differences from the baseline."""
    rows = table_rows(result)
    known = rows[0]["auc_below_best"] is not None
    by_budget = bool(result.by_budget)
    grid = Grid(
        *("arm", "bytes", "of full", "AUC", "interval", "logloss", "interval"),
        *(["below best AUC"] if known else []),
        *("ΔAUC", "verdict"),
        *(["ΔAUC at its budget", "verdict there"] if by_budget else []),
        title=f"baseline: {result.overall.baseline}",
    )
    for row in rows:
        change = row["auc_change"]
        grid.add_row(
            row["arm"],
            f"{row['bytes']['total']:,}",
            f"{row['share']:.1%}",
            f"{row['auc']:.4f}",
            "{:.4f}–{:.4f}".format(*row["auc_interval"]),
            f"{row['logloss']:.5f}",
            "{:.5f}–{:.5f}".format(*row["logloss_interval"]),
            *([f"{row['auc_below_best']:.4f}"] if known else []),
            f"{change.estimate:+.4f}" if change else "",
            change.verdict_word if change else "baseline",
            *(_at_budget(row) if by_budget else ()),
        )
    return grid


def _at_budget(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the difference of an arm from the baseline of its budget, and the verdict on it."""
    change = row["auc_change_at_budget"]
    if change is None:
        return "", "baseline" if row["is_baseline_at_budget"] else ""
    return f"{change.estimate:+.4f}", change.verdict_word


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
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[float, float, float, float]]] = {}
    for arm, judged in zip(result.arms, result.overall.arms, strict=True):
        low, high = judged.auc_interval
        families.setdefault(arm_name(arm.name, arm.budget), []).append(
            (arm.bytes["total"], judged.auc, low, high)
        )
    for number, (name, points) in enumerate(families.items()):
        x, y, low, high = np.array(sorted(points)).T
        axes.errorbar(
            x,
            y,
            yerr=[y - low, high - y],
            label=name,
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
            alpha=0.85,
        )
    if (limit := result.arms[0].runs[0].metrics["best_possible"]) is not None:
        axes.axhline(limit["auc"], color="black", linestyle=":", label="best possible")
    axes.axvline(result.arms[0].bytes["full_table"], color="grey", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", xlabel="resident bytes in training (dashed: the full table)", ylabel="test AUC")
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"mean over seeds with {result.overall.level:.0%} intervals over rows and seeds")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.legend()
    axes.grid(alpha=0.3)
    note = "Resident bytes in training against AUC on test; a line for each scheme, a point for each budget."
    return "Quality against bytes", png(figure), note


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
