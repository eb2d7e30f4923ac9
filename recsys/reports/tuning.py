"""The report of a tuning: a table of all trials, the best settings as a configuration, and an HTML page with pictures."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from recsys.reports.page import write_page
from recsys.reports.pictures.tuning import curves_picture, parallel_picture, progress_picture
from recsys.reports.sheet import Sheet
from recsys.tuning.study import TuningResult
from recsys.tuning.trials import Trial
from recsys_cython_ext.files import write_text

ENDS = {
    "finished": "trained to the end",
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
}
SHOWN_METRICS = ("logloss", "auc")


def write_tuning(tuned: TuningResult, source: Path | str, path: Path | str) -> Path:
    """Write the page, and beside it `<page's name>-best.yaml`, which extends `source`; return the latter."""
    path = Path(path)
    best = path.with_name(f"{path.stem}-best.yaml")
    text = best_yaml(tuned, source, best)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(text, best)
    pictures = [progress_picture(tuned), parallel_picture(tuned), curves_picture(tuned)]
    texts = [summary(tuned), f"{best.name}, beside this page, is a configuration with these settings."]
    write_page(path, f"Tuning of {tuned.config.name}", texts, [trials_sheet(tuned)], pictures)
    return best


def summary(tuned: TuningResult) -> str:
    """Say how many trials ended how, and which was best, in two sentences."""
    counts = {word: sum(trial.end == end for trial in tuned.trials) for end, word in ENDS.items()}
    ended = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    monitor, best = tuned.config.training.monitor, tuned.best
    default = next(trial for trial in tuned.trials if trial.number == 0)
    text = (
        f"{len(tuned.trials)} trials ({tuned.how}{', ASHA' if tuned.asha else ''}): {ended}. "
        f"Best on validation: trial {best.number}, {monitor} {_metric(tuned, best):.5f}"
    )
    if best.number == 0:
        return text + ", the file's own settings."
    metrics = default.best(tuned.config)
    than = (
        "the file's own settings have none"
        if metrics is None
        else f"{metrics[monitor]:.5f} with the file's own"
    )
    return f"{text} ({than}): {as_text(best.settings)}. It was chosen on these rows, so expect a little less on others."


def trials_sheet(tuned: TuningResult) -> Sheet:
    """Return a table of every trial, the best first."""
    space = list(tuned.config.tuning.space)
    rows = []
    for trial in tuned.trials:
        metrics = trial.best(tuned.config)
        values = [None if metrics is None else metrics[name] for name in SHOWN_METRICS]
        cells = ["–" if value is None else f"{value:.5f}" for value in values]
        settings = [_value(trial.settings[key]) if key in trial.settings else "as it is" for key in space]
        end = ENDS[trial.end or "failed"]
        rows.append((str(trial.number), *cells, *settings, f"{trial.epochs:.2f}", end))
    reasons = {
        (trial.end or "failed", trial.why): trial.number for trial in reversed(tuned.trials) if trial.why
    }
    return Sheet(
        "trials",
        ("trial", *SHOWN_METRICS, *space, "epochs", "end"),
        rows,
        f"Validation metrics of each trial's best evaluation by {tuned.config.training.monitor}. "
        "Trial 0 has the file's own settings. Stopped early: by ASHA, for it fell behind others of its age."
        + "".join(f" Trial {number} {ENDS[end]}: {why}." for (end, why), number in reasons.items()),
    )


def best_yaml(tuned: TuningResult, source: Path | str, path: Path | str) -> str:
    """Return a configuration for `path` that extends `source` by the best settings."""
    extends = os.path.relpath(Path(source).resolve(), Path(path).resolve().parent)
    best = tuned.best
    content = {"extends": extends, "name": f"{tuned.config.name}-tuned", "set": best.settings}
    head = (
        f"# Trial {best.number}, the best of {len(tuned.trials)} by validation {tuned.config.training.monitor}: "
        f"{_metric(tuned, best):.5f}\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)


def as_text(settings: dict[str, Any]) -> str:
    """Return settings in a line."""
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items())


def _metric(tuned: TuningResult, trial: Trial) -> float:
    metrics = trial.best(tuned.config)
    assert metrics is not None
    return float(metrics[tuned.config.training.monitor])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
