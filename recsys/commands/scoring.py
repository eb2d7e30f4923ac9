"""Commands on rows and a finished run, or its export: evaluate, predict."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.commands.options import JsonOption, RunArgument
from recsys.console import app, out, print_json, print_metrics


@app.command(rich_help_panel="Judging")
def evaluate(
    run: RunArgument,
    path: Annotated[
        str | None, typer.Option("--data", help="a labelled file or URL; default: the run's own test rows")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score labelled rows with a run's checkpoint and print its metrics."""
    import numpy as np

    from recsys.evaluation.metrics import evaluate as measure
    from recsys.serving.scoring import score_file, score_split, unknown_ids
    from recsys.training.run import Run
    from recsys_pipelines.quarantine import Quarantine

    finished = Run.open(run)
    quarantine = Quarantine(finished.config.data.quarantine_limit)
    if path is None:
        parts = [score_split(finished, "test")]
    else:
        parts = list(score_file(finished, path, labelled=True, quarantine=quarantine))
    rows = sum(len(part) for part, _ in parts)
    quarantine.check(rows + quarantine.count)
    if rows == 0:
        raise ValueError(f"{path}: holds no readable row")
    users = None if parts[0][0].user is None else np.concatenate([part.user for part, _ in parts])
    metrics = measure(
        np.concatenate([part.label for part, _ in parts]),
        np.concatenate([predictions for _, predictions in parts]),
        groups=users,
    )
    metrics["quarantined"] = quarantine.count
    unknown: Counter[str] = Counter()
    for part, _ in parts:
        unknown.update(unknown_ids(part))
    metrics["unknown_ids"] = sum(unknown.values())
    if as_json:
        return print_json(metrics)
    print_metrics({str(path or "test"): metrics})


@app.command(rich_help_panel="Serving")
def predict(
    model: Annotated[
        Path, typer.Argument(help="folder of a finished run, or one that export wrote", show_default=False)
    ],
    path: Annotated[
        str, typer.Argument(help="file or URL of the run's source format; labels are not needed")
    ],
    output: Annotated[Path, typer.Option("--out", help="Parquet file with row_id and prediction")] = Path(
        "predictions.parquet"
    ),
    as_json: JsonOption = False,
) -> None:
    """Score the unlabelled rows of a file; an exported folder needs no torch for it."""
    from recsys.serving.exported import is_exported
    from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT, ONE_IN

    counts, features = (_by_export if is_exported(model) else _by_run)(model, path, output)
    if as_json:
        return print_json({"path": str(output), **counts})
    estimate = any(getattr(feature, "form", EXACT) == FINGERPRINT for feature in features)
    out.print(
        f"{output}: {counts['rows_in']:,} rows in = {counts['rows_scored']:,} scored "
        f"+ {counts['quarantined']:,} quarantined; {sum(counts['unknown_ids'].values()):,} ids outside a vocabulary"
        + (f" (an estimate: with form: fingerprint 1 in {ONE_IN} passes for one inside)" if estimate else ""),
        markup=False,
    )


def _by_export(folder: Path, path: str, output: Path) -> tuple[dict[str, Any], Sequence[Any]]:
    """Return what was counted, and the declared features."""
    from recsys.serving.exported import predict_file, settings_of
    from recsys.serving.predictor import Predictor

    predictor = Predictor.open(folder)
    return predict_file(predictor, path, output), settings_of(predictor.artefact).features


def _by_run(folder: Path, path: str, output: Path) -> tuple[dict[str, Any], Sequence[Any]]:
    """Return what was counted, and the declared features."""
    from recsys.serving.scoring import predict_file
    from recsys.training.run import Run

    finished = Run.open(folder)
    return predict_file(finished, path, output), finished.config.features
