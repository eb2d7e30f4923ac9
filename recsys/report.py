"""The report of a comparison: one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from recsys.comparing import Arm, Result
from recsys.evaluation.metrics import reliability

matplotlib.use("Agg")

MARKERS = "osD^vP*X"


def write_report(result: Result, path: Path) -> None:
    """Render `result` into a self-contained HTML file, written under a temporary name first."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recsys", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("report.html.j2")
    arm = result.arms[0]
    html = template.render(
        title=f"Comparison of {len(result.arms)} table schemes",
        summary=summary(result),
        verdict=verdict(result),
        data=arm.config.data.model_dump(mode="json", exclude_none=True),
        splits=_manifest_counts(arm),
        rows=table_rows(result),
        families=[("all arms", result.overall), *result.by_budget.items()],
        pictures=[
            ("Quality against bytes", _quality_picture(result)),
            ("Reliability on test", _reliability_picture(result.arms)),
            ("Training curves (validation)", _curves_picture(result.arms)),
        ],
        arms=result.arms,
        left_out=result.left_out,
        comparison=result.overall,
        seeds=len(arm.runs),
        trials=trial_counts(result),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)


def table_rows(result: Result) -> list[dict[str, Any]]:
    """One plain row per arm: what the terminal, the report and `--json` readers want first."""
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
    counts = {word: [c.arm for c in changes if c.verdict == word] for word in _WORDS}
    held = {result.overall.baseline, *counts["better"], *counts["undecided"]}
    smallest = min((arm for arm in result.arms if arm.name in held), key=lambda arm: arm.bytes["total"])
    size = smallest.bytes["total"]
    return (
        f"Against {result.overall.baseline}, in AUC: {len(counts['better'])} arms are better, "
        f"{len(counts['worse'])} worse, {len(counts['undecided'])} not told apart from it. The smallest arm not "
        f"found worse is {smallest.name}: {size:,} bytes, {size / smallest.bytes['full_table']:.1%} of the full table."
    )


def verdict(result: Result) -> list[str]:
    """Say in sentences which arm is smaller, which better, and whether the difference is real."""
    lines = []
    size = {arm.name: arm.bytes["total"] for arm in result.arms}
    for family, comparison in [("", result.overall), *result.by_budget.items()]:
        where = f"At {family}: " if family else ""
        for change in comparison.differences:
            if change.metric != "auc":
                continue
            low, high = change.interval
            lines.append(
                f"{where}{change.arm}, in {size[change.arm] / size[change.baseline]:.1%} of the bytes of "
                f"{change.baseline}, is {_WORDS[change.verdict]} in AUC: "
                f"{change.estimate:+.4f} ({comparison.level:.0%} interval {low:+.4f} to {high:+.4f}, "
                f"Holm-adjusted p = {change.adjusted_p_value:.3g}; a single test finds "
                f"±{change.minimum_detectable_effect:.4f} four times in five"
                f"{'' if change.note is None else '; ' + change.note})."
            )
    return lines


_WORDS = {"better": "better", "worse": "worse", "undecided": "not told apart from it"}


def trial_counts(result: Result) -> str:
    """Say how many settings each arm was tried with, and over what."""
    counts = sorted({len(arm.trials) for arm in result.arms})
    if counts == [0]:
        return "No arm was tuned: every arm ran with the settings of its file."
    keys = sorted({key for arm in result.arms for key in arm.config.search.space})
    same = (
        f"{counts[0]}"
        if len(counts) == 1
        else f"{counts[0]} to {counts[-1]} (fewer where fewer fit the budget)"
    )
    return f"Validation trials per arm: {same}, over {', '.join(keys)}; test data was not looked at."


def _manifest_counts(arm: Arm) -> dict[str, Any]:
    from recsys_pipelines.prepare import Prepared

    manifest = Prepared.open(Path(arm.runs[0].metrics["prepared"])).manifest
    return {key: manifest[key] for key in ("rows_in", "rows_out", "quarantined", "splits")}


def _quality_picture(result: Result) -> str:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[float, float, float, float]]] = {}
    for arm, judged in zip(result.arms, result.overall.arms, strict=True):
        low, high = judged.auc_interval
        families.setdefault(arm.name.split("@")[0], []).append((arm.bytes["total"], judged.auc, low, high))
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
    axes.legend()
    axes.grid(alpha=0.3)
    return _png(figure)


def _reliability_picture(arms: Sequence[Arm]) -> str:
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
    return _png(figure)


def _curves_picture(arms: Sequence[Arm]) -> str:
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("auc", "logloss"), strict=True):
        for number, arm in enumerate(arms):
            for run in arm.runs:
                history = run.metrics["history"]
                axes.plot(
                    [entry["epoch"] for entry in history],
                    [entry[f"validation_{metric}"] for entry in history],
                    color=matplotlib.colormaps["tab20"](number % 20),
                    label=arm.name if run is arm.runs[0] else None,
                    linewidth=1,
                    marker=".",
                    markersize=3,
                )
        axes.set(xlabel="epoch", ylabel=f"validation {metric}")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return _png(figure)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
