"""What each column becomes. The first rule that holds decides, and its words are the reason that is given.

A column is left out where it is constant or empty, numbers rows, has another text in every row, names the parts of a split,
is another outcome, tells the label nearly by itself, or is of a kind that no feature reads. Times become their hour and
weekday. Lists, and text with separators, become lists of ids; text of several words becomes its words; other text is ids.
Whole numbers are ids where the name says so, where they are few, too large for counts, begin with 0, have no gaps, or
repeat without a long tail; where the name says that they are amounts, only if they are few. All other numbers are
numbers, on a logarithmic scale where a few are far larger than most.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from recsys.evaluation.metrics import auc
from recsys.starting import names
from recsys.starting.known import OUTCOME, Known
from recsys.starting.sample import Column, Sample
from recsys.starting.text import one_line
from recsys.starting.times import Times

LEFT_OUT = "left out"
TELLS_THE_LABEL = 0.99  # AUC of a column by itself
FEW = 20  # whole numbers that are ids, though they could be counts
NO_GAPS = 0.9  # share of the numbers between the least and the largest one
MANY = 1_000  # ids of a column, of which those seen once share a code
SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class Use:
    """What a column becomes: a kind of feature and the keys of its declaration, or `LEFT_OUT`, and why."""

    kind: str
    reason: str
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What the use of a column depends on beside the column. `labels` are 0, 1 or NaN [rows]."""

    sample: Sample
    known: Known
    labels: np.ndarray
    other_labels: frozenset[str]
    times: dict[str, Times]


def use_of(column: Column, context: Context) -> Use:
    """Return what a column that plays no role of its own becomes."""
    if (why := _why_left_out(column, context)) is not None:
        return Use(LEFT_OUT, why)
    if column.name in context.known.numbers and column.numbers is not None:
        return Use("numeric", "a count of this log", {"transform": "log"})
    if column.name in context.times:
        return _of_times(context.times[column.name])
    if column.is_list:
        return _of_lists(column)
    if column.is_boolean:
        return Use("categorical", "true and false")
    if column.numbers is not None:
        return _of_numbers(column)
    if column.is_text:
        return _of_text(column)
    return Use(LEFT_OUT, f"its type, {column.type_name}, is none that a feature reads")


def _why_left_out(column: Column, context: Context) -> str | None:
    """Return why no feature reads a column, None where one may."""
    if column.name in context.known.left_out:
        return context.known.left_out[column.name]
    if column.values is None or not len(column.present):
        return "has no values"
    if column.not_text:
        return f"has {column.not_text:,} values that are not UTF-8 text"
    if column.distinct == 1 and column.missing == 0 and not column.is_list:
        return "has the same value in every row"
    if column.name in context.other_labels or names.has_word(column.name, names.PROPENSITY):
        return f"is another outcome or the logging policy's, and {OUTCOME}"
    if column.is_text and column.distinct <= 4 and _names_a_split(column):
        return "names the parts of a split, which data.split makes anew"
    if column.name not in context.times and _numbers_rows(column, context.sample):
        return "numbers the rows, or has another value in each"
    if _tells_the_label(column, context.labels):
        return f"tells the label nearly by itself (AUC ≥ {TELLS_THE_LABEL}): is it known before the label is?"
    return None


def _names_a_split(column: Column) -> bool:
    return all(str(value).lower() in names.SPLIT for value in column.series.unique().to_list())


def _numbers_rows(column: Column, sample: Sample) -> bool:
    if column.is_whole and names.is_row_number(column.name) and column.distinct > FEW:
        return True
    if column.is_list or column.is_time or sample.rows < FEW or column.distinct < sample.rows:
        return False
    if names.user_rank(column.name) is not None or names.is_item(column.name):
        return False
    if column.is_text and column.numbers is None:
        return not _has_words(column)
    if not column.is_whole or column.numbers is None:
        return False
    return len(np.unique(np.diff(column.numbers))) == 1


def _tells_the_label(column: Column, labels: np.ndarray) -> bool:
    """Tell whether a column separates the labels: by the rate of each of a few values, or by its order."""
    usable = ~np.isnan(labels)
    if column.is_list or usable.sum() < 100 or column.values is None:
        return False
    frame = pl.DataFrame({"value": pl.Series(pl.from_arrow(column.values)), "label": labels}).filter(
        pl.Series(usable)
    )
    if column.distinct <= 100 and 20 * column.distinct <= len(frame):
        scores = frame.select(pl.col("label").mean().over("value")).to_series()
    elif column.numbers is not None:
        scores = frame["value"].cast(pl.Float64, strict=False).fill_nan(None)
        scores = scores.fill_null(scores.mean())
    else:
        return False
    area = auc(frame["label"].to_numpy(), scores.to_numpy())
    return max(area, 1 - area) >= TELLS_THE_LABEL


def _of_times(moment: Times) -> Use:
    if not moment.parts:
        return Use(LEFT_OUT, f"{moment.reason}, which no feature reads as it is")
    keys: dict[str, Any] = {"parts": moment.parts}
    if moment.format is not None:
        keys["format"] = moment.format
    return Use("date", moment.reason, keys)


def _of_lists(column: Column) -> Use:
    elements = Column(column.name, "", column.series.to_arrow())
    if elements.series.dtype.is_float() and not elements.is_whole:
        return Use(LEFT_OUT, "lists of fractions, such as embeddings, are no lists of ids")
    if not (elements.series.dtype == pl.String or elements.series.dtype.is_integer() or elements.is_whole):
        return Use(LEFT_OUT, f"lists of {elements.series.dtype} are no lists of ids")
    return _ids(column, "lists", multivalued=True, pooling="mean")


def _of_numbers(column: Column) -> Use:
    x = column.numbers
    assert x is not None
    if column.is_whole and (why := _why_ids(column, x)) is not None:
        return _ids(column, why)
    if _has_long_tail(x):
        return Use("numeric", "numbers, of which a few are far larger than most", {"transform": "log"})
    return Use("numeric", "numbers")


def _has_long_tail(x: np.ndarray) -> bool:
    size = np.abs(x)
    return bool(np.quantile(size, 0.99) > 10 * max(float(np.median(size)), 1.0))


def _why_ids(column: Column, x: np.ndarray) -> str | None:
    """Return why whole numbers are ids, None where they are counts."""
    quantity = names.has_word(column.name, names.QUANTITY)
    if names.user_rank(column.name) is not None or names.is_item(column.name):
        return "called like an id"
    if not quantity and names.has_word(column.name, names.ID):
        return "called like an id"
    if column.is_text and column.series.str.contains(r"^0\d").any():
        return "numbers that begin with 0"
    if column.distinct <= FEW and 3 * column.distinct <= len(x):
        return "few whole numbers"
    if x.min() < 0 or quantity:
        return None
    if x.max() >= 2**31:
        return "whole numbers beyond 2^31, as hashes are"
    several = column.distinct >= 100 or x.min() > column.distinct > FEW
    if several and column.distinct >= NO_GAPS * (x.max() - x.min() + 1):
        return "whole numbers without gaps, as ids are"
    if column.distinct <= len(x) / 2 and not _has_long_tail(x):
        return "whole numbers that repeat and have no long tail, as ids"
    return None


def _of_text(column: Column) -> Use:
    texts = column.series
    if texts.str.contains(r"^\s*\[.*\]\s*$").all():
        return Use("tokens", "lists in brackets, cut into words", {"max_tokens": 20})
    for separator in SEPARATORS:
        if _is_separated(texts, separator):
            return _ids(
                column, f"lists cut at {separator}", multivalued=True, separator=separator, pooling="mean"
            )
    if _has_words(column) and column.distinct > max(FEW, 0.01 * len(texts)):
        return Use("tokens", "text of several words", {"max_tokens": 20})
    if names.has_word(column.name, names.ID):
        return _ids(column, "called like an id")
    parsed = texts.cast(pl.Float64, strict=False)
    if parsed.null_count() < 0.05 * len(texts) and column.distinct > FEW:
        other = texts.filter(parsed.is_null())[0]
        return _ids(
            column,
            f"numbers but for texts such as {one_line(other, 20)}: ids, unless such cells are left empty",
        )
    return _ids(column, "text")


def _is_separated(texts: pl.Series, separator: str) -> bool:
    """Tell whether text is lists: enough of it has the separator, and fewer elements than texts are different."""
    share = texts.str.contains(separator, literal=True).mean()
    if not isinstance(share, float) or share < (0.1 if separator == "|" else 0.3):
        return False
    if separator != "|" and texts.str.contains(r"\s").any():
        return False
    return int(texts.str.split(separator).explode().n_unique()) < int(texts.n_unique())


def _has_words(column: Column) -> bool:
    share = column.series.str.strip_chars().str.contains(r"\S\s+\S").mean()
    return isinstance(share, float) and share >= 0.5


def _ids(column: Column, reason: str, **keys: Any) -> Use:
    if column.distinct > MANY:
        keys["min_count"] = 2
    return Use("categorical", reason, keys)
