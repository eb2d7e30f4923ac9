"""Command that tunes settings on validation: tune."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.commands.options import (
    PREPARED,
    RUNS,
    AddressOption,
    ConfigArgument,
    DataOption,
    DetailsOption,
    JsonOption,
    PreparedOption,
    RunsOption,
)
from recsys.console import app, bars, preparing, print_json, print_place, print_result, with_doubts
from recsys_cython_ext.extras import require

SHOWN = 10  # trials that are printed without --details


@app.command(rich_help_panel="Training")
def tune(
    config: ConfigArgument,
    trials: Annotated[
        int | None, typer.Option(min=2, help="settings to try; default: tuning.trials, or all of a grid")
    ] = None,
    how: Annotated[
        Literal["random", "grid", "optuna"], typer.Option(help="how settings are drawn from tuning.space")
    ] = "random",
    asha: Annotated[
        bool, typer.Option("--asha/--no-asha", help="stop trials that fall behind others of their age")
    ] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="trials at once; default: one per core")] = None,
    address: AddressOption = None,
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    report: Annotated[
        Path, typer.Option(help="HTML report to write; the best settings go beside it as YAML")
    ] = Path("tune-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try the settings of tuning.space on validation rows; the same command goes on after an interruption."""
    require("torch", "torchrec")
    from recsys.config import load_experiment
    from recsys.reports.tuning import summary, trials_sheet, write_tuning
    from recsys.tuning.study import opened
    from recsys_pipelines.preparation.prepare import prepare as run_prepare

    experiment = load_experiment(config, data)
    most = trials or (None if how == "grid" else experiment.tuning.trials)
    at_once = workers or max(1, (os.cpu_count() or 1) // experiment.training.num_threads)
    announced: set[Path] = set()  # prepared sets whose doubts were printed
    with bars(runs, prepared) as show:

        def prepare(changed: Any) -> Any:
            prepared_set = run_prepare(changed.data, changed.features, prepared, preparing(show))
            if prepared_set.path not in announced:
                announced.add(with_doubts(prepared_set).path)
            return prepared_set

        with opened(experiment, prepare, runs, how, most, asha, show) as study:
            if not study.is_done:
                _runner()(study, at_once, address, lambda: show("trials", *_progress(study)))
            tuned = study.result()
    best = write_tuning(tuned, config, report)
    if as_json:
        paths = {"best_config": str(best), "report": str(report)}
        return print_json({**tuned.to_dict(), "summary": summary(tuned), **paths})
    trials_table = trials_sheet(tuned)
    if not details:
        note = f"The best {SHOWN} of {len(tuned.trials)}; all of them with --details."
        trials_table = trials_table.head(SHOWN, note)
    print_result(summary(tuned), [trials_table], details, report=report)
    print_place("best settings", best.resolve())


def _runner() -> Any:
    """Return what runs trials, which needs Ray."""
    try:
        from recsys.tuning.on_ray import run_trials
    except ImportError:
        raise ValueError("recsys tune needs Ray: pip install 'recsys-embedding-tables[ray]'") from None
    return run_trials


def _progress(study: Any) -> tuple[int, int, str]:
    """Return how many trials ended, of how many, and the best metric so far."""
    ended = sum(trial.end is not None for trial in study.trials)
    best = max(study.trials, key=lambda trial: trial.score(study.config))
    metrics = best.best(study.config)
    monitor = study.config.training.monitor
    detail = "" if metrics is None else f"best {monitor} {metrics[monitor]:.5f} (trial {best.number})"
    return ended, study.most, detail
