"""The labels that a part of the data must have are checked before anything is trained, and a teacher's put beside them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.types as pt
from scipy.special import expit

from recsys.config import ConfigError, ExperimentConfig
from recsys_cython_ext.files import file_digest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.sources.whole import WholeFile

NEGATIVES = (
    "A log of positives only needs negatives to learn from: add rows with label 0 (shown and not taken, or items drawn "
    "for each user), or set data.label: {column: …, threshold: …} where a rating or a count tells both; in a loop of "
    "your own, recsys_pipelines.batches.negatives.NegativeSampler draws items for each positive row"
)
POSITIVES = (
    "Nothing can be learnt from them: bring rows that are positive, or set data.label: {column: …, threshold: …} where "
    "a lower value counts as positive"
)


class OneClass(ValueError):
    """All rows of a part have the same label, and what is to be done needs both."""


def one_class(rows: int, positives: int) -> str | None:
    """Say in words that all labels of a part are the same; None where they are not."""
    if 0 < positives < rows:
        return None
    return f"all {rows:,} labels are {int(positives > 0)}"


def check_training(rows: int, positives: int) -> None:
    """Raise OneClass unless training rows have both labels."""
    if (same := one_class(rows, positives)) is not None:
        raise OneClass(f"the training part has one class: {same}. {NEGATIVES if positives else POSITIVES}")


def check_measured(part: str, rows: int, positives: int, purpose: str) -> None:
    """Raise OneClass unless the rows of validation or test have both labels; `purpose` is what needs them."""
    if (same := one_class(rows, positives)) is not None:
        missing = "negative" if positives else "positive"
        raise OneClass(
            f"the {part} part has one class: {same}, and {purpose} needs both. Bring rows of which some are {missing}, "
            f"or change data.split so that the {part} part gets some"
        )


def soft_labelled(rows: Rows, config: ExperimentConfig) -> Rows:
    """Return training rows whose loss sees the teachers' answers of `training.teacher` too, if it names any.

    With weight w, the true label y, logits z_1 … z_m of the teachers, and r = `training.negative_rate`, it sees

        (1 - w) · y + w · sigmoid(mean(z) - ln r).

    Logits are of the probability q of a click among all rows. A model that is trained on a share r of the negatives
    predicts another one, P(y = 1 | the row was kept) = q / (q + r · (1 - q)), whose logit is logit(q) - ln r; it is
    recalibrated by + ln r (`evaluation.metrics.recalibrate`), which leads back to q. Logits of a teacher that was trained
    at a rate of its own have been recalibrated by that one (`prediction.predict_logits`).

    Which rows are kept, weights, and every metric go by the true label.

    Raises:
        ValueError: A row has no logit in the file, or the file is another one or cannot be read.
    """
    teacher = config.training.teacher
    if teacher is None:
        return rows
    teacher.file_digest()  # raises where runs have yet to predict
    assert teacher.predictions is not None
    logit = read_logits(teacher.predictions, rows.row_id, teacher.xxh64)
    logit -= math.log(config.training.negative_rate)
    label = (1 - teacher.weight) * rows.label + teacher.weight * expit(logit)
    return replace(rows, soft_label=label.astype(np.float32))


def read_logits(path: Path, row_ids: np.ndarray, checksum: str | None = None) -> np.ndarray:
    """Return the logit of each row, float64 [n], from a file with the columns row_id and logit.

    Args:
        path: Parquet, Arrow or text, as `WholeFile` reads it. It may have rows of other parts, in any order.
        row_ids: Numbers of rows, int64 [n].
        checksum: Its digest, where that is known.

    Raises:
        ValueError: As of `WholeFile`; the checksum is another one, a column is absent, a logit is no finite number, a row
            stands there twice, or a row has no logit.
    """
    file = WholeFile(path)
    if checksum is not None and file_digest(path) != checksum:
        raise ConfigError(
            f"{path}: damaged or changed since this training was planned (its checksum is not {checksum}): delete it where "
            "recsys wrote it, and run the same command again"
        )
    for name in ("row_id", "logit"):
        if name not in file.names or name in file.repeated:
            fault = "has more than one column" if name in file.repeated else "has no column"
            raise ConfigError(
                f"{path}: {fault} {name!r}, but {', '.join(file.names)}: a teacher's predictions are row_id and logit"
            )
    table = file.read(["row_id", "logit"])
    ids = _whole_numbers(file, table["row_id"].combine_chunks())
    logits = file.numbers("logit", table["logit"].combine_chunks()).to_numpy(zero_copy_only=False)
    if not (finite := np.isfinite(logits)).all():
        row = int(finite.argmin())
        raise ConfigError(f"{file.place(row)}: row_id {ids[row]} has no logit that is a finite number")
    order = np.argsort(ids, kind="stable")
    ids, logits = ids[order], logits[order]
    _require_once(path, ids, logits)
    places = np.minimum(np.searchsorted(ids, row_ids), len(ids) - 1)
    if (missing := ids[places] != row_ids).any():
        raise ConfigError(
            f"{path}: has no logit of row_id {row_ids[missing.argmax()]}, which is one of {missing.sum():,} such rows "
            f"among the {len(row_ids):,} of training: write one for each"
        )
    return logits[places]


def _whole_numbers(file: WholeFile, column: pa.Array) -> np.ndarray:
    """Return row ids as int64 [n]. Raises ConfigError naming the first that is no whole number."""
    if pt.is_large_string(column.type):
        column = pl.Series(pl.from_arrow(column)).cast(pl.Int64, strict=False).to_arrow()
    whole = column.is_valid().to_numpy(zero_copy_only=False) & pt.is_integer(column.type)
    if not whole.all():
        raise ConfigError(
            f"{file.place(int(whole.argmin()))}: row_id is no whole number, as `row_id` of runs is"
        )
    return column.cast(pa.int64()).to_numpy()


def _require_once(path: Path, ids: np.ndarray, logits: np.ndarray) -> None:
    """Raise ConfigError where sorted row ids [n] have one twice: teachers that disagree."""
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        first = int(twice[0])
        raise ConfigError(
            f"{path}: row_id {ids[first]} stands there twice, with the logits {logits[first]:g} and {logits[first + 1]:g}: "
            "of several teachers, write the mean"
        )
