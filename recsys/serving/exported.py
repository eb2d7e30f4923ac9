"""An exported folder scores the rows of a file as its run would, without torch and in bounded memory."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import ExperimentConfig, parse_experiment
from recsys.config.yaml_text import YamlError, parse_yaml
from recsys.serving.files import Scores, typed_rows, write_scores
from recsys.serving.predictor import ROWS_AT_ONCE, SETTINGS, Predictor
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.request.inputs import CategoricalInput
from recsys_pipelines.sources.location import Place
from recsys_tables.serving.artefact import MANIFEST, Artefact, ArtefactError


def is_exported(folder: str | Path) -> bool:
    """Tell whether a folder is one that `recsys export` wrote, and not a run's."""
    return (Path(folder) / MANIFEST).is_file()


def settings_of(artefact: Artefact) -> ExperimentConfig:
    """Return the settings of the run that was exported. Raises ArtefactError where they are damaged."""
    file = artefact.file(SETTINGS)
    try:
        return parse_experiment(parse_yaml(file.read_text(encoding="utf-8")), str(file))
    except YamlError as error:
        raise ArtefactError(f"{file}: damaged ({error}); export the run again") from None


def predict_file(predictor: Predictor, path: Place, out: str | Path) -> dict[str, Any]:
    """Write (row_id, prediction) for every readable row of an unlabelled file as Parquet; return the counts.

    As `recsys.serving.scoring.predict_file` does of a run, and as `files.write_scores` says.
    """
    config = settings_of(predictor.artefact)
    quarantine = Quarantine(config.data.quarantine_limit)
    return write_scores(_scores(predictor, config, path, quarantine), quarantine, out)


def _scores(
    predictor: Predictor, config: ExperimentConfig, path: Place, quarantine: Quarantine
) -> Iterator[Scores]:
    frames = predictor.frames
    with_vocabulary = [
        one.name
        for one in predictor.transform.inputs
        if isinstance(one, CategoricalInput) and (one.vocabulary or one.like)
    ]
    for table in typed_rows(config, frames.features, path, labelled=False, quarantine=quarantine):
        predictions, unknown = [], Counter(dict.fromkeys(with_vocabulary, 0))
        for first in range(0, table.num_rows, ROWS_AT_ONCE):
            encoded = frames.encode_typed(table.slice(first, ROWS_AT_ONCE))
            predictions.append(predictor.score(encoded))
            unknown.update({name: encoded.unknown.get(name, 0) for name in with_vocabulary})
        yield Scores(table["row_id"].to_numpy(), np.concatenate(predictions), unknown)
