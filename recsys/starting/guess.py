"""Everything that is guessed about a log, each guess with its reason, and what of it can be declared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.starting import names
from recsys.starting.known import KNOWN, Known
from recsys.starting.label import FEW_POSITIVES, Label, choose_label
from recsys.starting.sample import Column, Sample, look
from recsys.starting.sources import Reading, reading_of
from recsys.starting.text import one_line
from recsys.starting.times import Times, choose_time, times_of
from recsys.starting.user import choose_user
from recsys.starting.uses import LEFT_OUT, Context, Use, use_of
from recsys_pipelines.config import DataConfig
from recsys_pipelines.sources import SOURCES, open_source
from recsys_pipelines.sources.base import SourceError
from recsys_pipelines.sources.location import located

MOST_QUARANTINED = 0.01  # of the rows; DataConfig's limit


@dataclass(frozen=True)
class Flags:
    """What a user decides instead of the rules; None where the rules decide, "none" for no user or no time."""

    label: str | None = None
    threshold: float | None = None
    user: str | None = None
    time: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Guess:
    """What is guessed about a log. `uses` holds every column that is not the label or the weight, in the log's order."""

    reading: Reading
    sample: Sample
    label: Label
    user: str | None
    user_reason: str
    time: Times | None
    time_reason: str
    split: str
    split_reason: str
    weight: str | None
    uses: dict[str, Use]
    warnings: tuple[str, ...]

    @property
    def features(self) -> list[str]:
        """Return the columns that become features."""
        return [name for name, use in self.uses.items() if use.kind != LEFT_OUT]

    @property
    def label_missing(self) -> float:
        """Return the share of rows without a label, which go to quarantine."""
        return self.sample.columns[self.label.column].missing

    def looked_at(self) -> str:
        """Say how much of the log the guesses rest on."""
        sample = self.sample
        if sample.is_all:
            return f"all {sample.rows:,} rows"
        of = "" if sample.rows_in_log is None else f" of {sample.rows_in_log:,}"
        return f"{sample.rows:,}{of} rows, spread over the log where its format allows"

    def roles(self) -> Iterator[tuple[str, str, str]]:
        """Yield the roles: what it is, the column that plays it or a setting, and why."""
        threshold = "" if self.label.threshold is None else f" >= {self.label.threshold:g}"
        yield "label", one_line(self.label.column) + threshold, self.label.reason
        yield "user", "none" if self.user is None else one_line(self.user), self.user_reason
        yield "time", "none" if self.time is None else one_line(self.time.column.name), self.time_reason
        if self.weight is not None:
            yield "weight", one_line(self.weight), "this log's weight of a row"
        yield "split", f"by {self.split}", self.split_reason

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        sample, columns = self.sample, self.sample.columns
        described = [
            {
                "name": name,
                "type": columns[name].type_name,
                "distinct": columns[name].distinct if columns[name].values is not None else 0,
                "missing": columns[name].missing,
                "becomes": use.kind,
                **({"keys": use.keys} if use.keys else {}),
                "reason": use.reason,
            }
            for name, use in self.uses.items()
            if name in columns
        ]
        return {
            "source": self.reading.source,
            "path": str(self.reading.path),
            "reason": self.reading.reason,
            "rows": {"looked_at": sample.rows, "read": sample.rows_read, "in_log": sample.rows_in_log},
            "roles": {
                "label": {
                    "column": self.label.column,
                    "threshold": self.label.threshold,
                    "positive": self.label.positive,
                    "reason": self.label.reason,
                },
                "user": {"column": self.user, "reason": self.user_reason},
                "time": {
                    "column": None if self.time is None else self.time.column.name,
                    "format": None if self.time is None else self.time.format,
                    "reason": self.time_reason,
                },
                "weight": self.weight,
                "split": {"by": self.split, "reason": self.split_reason},
            },
            "columns": described,
            "unreadable": sample.unreadable,
            "warnings": list(self.warnings),
        }


def guess(path: str, flags: Flags = Flags()) -> Guess:
    """Look at a log and guess what it is.

    Raises:
        SourceError: It cannot be read, or has nothing to learn from.
        Ambiguous: A role could be played by several columns, or the label by none; the message names them and the flag.
    """
    if flags.source is None:
        reading = reading_of(path)
    else:
        if flags.source not in SOURCES:
            raise SourceError(
                f"--source {flags.source}: there is no such source: take one of {', '.join(SOURCES)}"
            )
        reading = Reading(flags.source, located(path), "named by --source")
    source = open_source(DataConfig(source=reading.source, path=reading.path.resolve()))  # type: ignore[arg-type]
    sample = look(source, path)
    known = KNOWN.get(reading.source, Known())
    label = choose_label(sample, path, flags.label, flags.threshold, known.label)
    moments = {
        name: moment for name, column in sample.columns.items() if (moment := times_of(column)) is not None
    }
    moments.pop(label.column, None)
    user, user_reason = choose_user(sample, path, flags.user, known.user)
    readable = {name: moment for name, moment in moments.items() if name not in known.left_out}
    time, time_reason = choose_time(sample, path, flags.time or known.time_in(readable), readable)
    split, split_reason = _split(time, known)
    context = Context(sample, known, _labels(sample, label), _other_labels(sample, label), moments)
    uses = dict(_uses(context, label, known.weight))
    if not any(use.kind not in (LEFT_OUT, "numeric") for use in uses.values()):
        raise SourceError(
            f"{path}: no column beside the label holds ids, lists, words or times, and embedding tables need one"
        )
    warnings = tuple(_warnings(sample, label))
    return Guess(
        *(reading, sample, label, user, user_reason, time, time_reason, split, split_reason),
        *(known.weight, uses, warnings),
    )


def _split(time: Times | None, known: Known) -> tuple[str, str]:
    if time is not None:
        return "time", "a model is used on rows that come later"
    if known.in_order:
        return "order", "this log stands in the order of time"
    return "random", "nothing says in which order the rows came"


def _labels(sample: Sample, label: Label) -> np.ndarray:
    """Return 0, 1 or NaN for each row [rows]."""
    column = sample.columns[label.column]
    values = column.values
    assert values is not None
    labels = np.full(len(values), np.nan)
    x = column.series.to_numpy().astype(float) if column.is_boolean else column.numbers
    present = np.asarray(values.is_valid())
    if len(column.present) != present.sum():  # NaN is missing too
        present &= ~np.isnan(values.to_numpy(zero_copy_only=False))
    labels[present] = x if label.threshold is None else np.asarray(x) >= label.threshold
    return labels


def _other_labels(sample: Sample, label: Label) -> frozenset[str]:
    return frozenset(name for name in sample.columns if name != label.column and names.is_label(name))


def _uses(context: Context, label: Label, weight: str | None) -> Iterator[tuple[str, Use]]:
    for name, column in context.sample.columns.items():
        if name not in (label.column, weight):
            yield name, use_of(column, context)
    for name, why in context.sample.unreadable.items():
        yield name, Use(LEFT_OUT, why)


def _warnings(sample: Sample, label: Label) -> Iterator[str]:
    for name, why in sample.unreadable.items():
        yield f"column {one_line(name)} is left out: it {why}"
    column: Column = sample.columns[label.column]
    rarer = round(min(label.positive, 1 - label.positive) * len(column.present))
    if rarer < FEW_POSITIVES:
        yield (
            f"only {rarer:,} of the {len(column.present):,} rows looked at hold the rarer label: differences between "
            "models will not be told from chance, and a part of the split may get one class"
        )
    if sample.bad_rows > MOST_QUARANTINED * (sample.rows_read + sample.bad_rows):
        yield f"{sample.bad_rows:,} rows of the sample cannot be read: `recsys prepare` says which, and stops above 1 %"
    if column.missing > MOST_QUARANTINED:
        yield (
            f"{one_line(label.column)} is missing in {column.missing:.1%} of the rows: they go to quarantine, for which "
            "the experiment raises data.quarantine_limit"
        )
