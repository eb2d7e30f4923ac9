"""What is likely not meant, though it can be prepared: said by `prepare`, and kept in its manifest."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID, IdTable, string_ids
from recsys_pipelines.config import CategoricalConfig, DataConfig, SplitConfig
from recsys_pipelines.features import Categorical, Features
from recsys_pipelines.features.categorical import vocabulary_lines
from recsys_pipelines.features.convert import WrongType, lists, one_array, text_or_plain
from recsys_pipelines.features.declared import fits_of
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.preparation.prepared import SplitCounts
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source

FAR_OFF = 1.5  # a share that is so many times what was asked, or less than its inverse
NEARLY_ALL = 0.9  # of the values in training, outside a vocabulary
SAMPLED = 1000  # values of the log that are looked at for an example

CAUSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("blanks at its ends", str.strip),
    ("quotation marks", lambda text: text.strip().strip("\"'")),
    ("invisible characters", lambda text: re.sub(r"[\u200b-\u200f\u2060\ufeff\u00a0]", "", text).strip()),
    ("capitals", lambda text: text.strip().lower()),
    ("small letters", lambda text: text.strip().upper()),
    ("more than the id", lambda text: re.split(r"[,;\t| ]", text.strip(), maxsplit=1)[0]),
    ("zeros before a number", lambda text: text.strip().lstrip("0") or "0"),
    ("'.0' after a number", lambda text: re.sub(r"\.0+$", "", text.strip())),
    ("accents written in another way", lambda text: unicodedata.normalize("NFC", text.strip())),
)


def split_doubts(split: SplitConfig, splits: Mapping[str, SplitCounts]) -> list[str]:
    """Name the parts that are far from the shares asked for, and those with one class."""
    total = sum(counts.rows for counts in splits.values())
    asked = {name: getattr(split, name) for name in splits}
    shares = {name: counts.rows / total for name, counts in splits.items()}
    found = []
    if any(not 1 / FAR_OFF <= shares[name] / asked[name] <= FAR_OFF for name in splits):
        got = ", ".join(f"{name} {splits[name].rows:,} rows ({shares[name]:.0%})" for name in splits)
        wanted = ", ".join(f"{share:.0%}" for share in asked.values())
        cure = (
            "rows of one time stay together, so split by a finer time (data.time), by order, or at shares that the "
            "times allow"
            if split.by == "time"
            else "bring more rows, or other shares"
        )
        found.append(f"data.split: by {split.by} gives {got} where {wanted} were asked for; {cure}")
    for name, counts in splits.items():
        if counts.positives in (0, counts.rows):
            same = (
                f"the {name} part has one class: all {counts.rows:,} labels are {int(counts.positives > 0)}"
            )
            then = (
                "nothing can be learnt from it"
                if name == "train"
                else "its AUC is missing, and its log loss prefers whatever model promises "
                + ("most" if counts.positives else "least")
            )
            found.append(f"{same}; {then}")
    return found


def vocabulary_doubts(data: DataConfig, features: Features, counts_file: Path) -> list[str]:
    """Name the features of which nearly all values in training are outside their vocabulary, and the likely cause.

    data: of which an example is read. counts_file: what the features were fitted from.
    """
    places = {name: place for place, name in enumerate(fits_of(features.configs))}
    fitted = {feature.name: feature for feature in features.features}
    found = []
    with np.load(counts_file, allow_pickle=False) as counted:
        for config in features.configs:
            if not config.categorical or getattr(config, "encoding", "hash") != "vocabulary":
                continue
            for name in config.names:
                feature = fitted[name]
                if not isinstance(feature, Categorical) or f"{places[name]}.ids" not in counted:
                    continue
                ids, counts = counted[f"{places[name]}.ids"], counted[f"{places[name]}.counts"]
                doubt = _Unknown(feature, ids, counts)
                if doubt.share >= NEARLY_ALL:
                    found.append(_told(data, config, doubt, features.text))
    return found


class _Unknown:
    """The values of a feature in training, by whether its vocabulary has them."""

    def __init__(self, feature: Categorical, ids: np.ndarray, counts: np.ndarray) -> None:
        there = ids != MISSING_ID
        self.name, self.ids, self.counts = feature.name, ids[there], counts[there]
        self.total = int(self.counts.sum())
        self.table = IdTable(feature.ids)
        self.size = len(feature.ids)
        self.known = self.share_known(feature.ids)
        self.share = 1 - self.known if self.total else 0.0

    def share_known(self, ids: np.ndarray) -> float:
        """Share of the values that another vocabulary would have."""
        return float(self.counts[np.isin(self.ids, ids)].sum() / max(1, self.total))

    def of_column(self, ids: np.ndarray) -> float:
        """Share of other ids that the vocabulary has."""
        return float(np.mean(self.table.codes(ids, -1) >= 0)) if len(ids) else 0.0


def _told(data: DataConfig, config: object, doubt: _Unknown, text: Mapping[str, TextIds]) -> str:
    unknown = (
        f"{round(doubt.share * doubt.total):,} of its {doubt.total:,} values in training ({doubt.share:.1%})"
    )
    begins = f"feature {doubt.name!r}: {unknown} are unknown"
    if not isinstance(config, CategoricalConfig) or (config.vocabulary, config.keep) == (None, None):
        rare = f"min_count {getattr(config, 'min_count', 1)} leaves {doubt.size:,} of {len(doubt.ids):,} ids"
        return f"{begins}: {rare}, so the feature says next to nothing; lower it, or hash the feature"
    if config.keep is not None:
        return (
            f"{begins}: `keep` leaves {doubt.size:,} of {len(doubt.ids):,} ids; is {config.keep} of "
            "this feature, and of ids of the same kind (text, or integers)?"
        )
    assert config.vocabulary is not None
    lines = vocabulary_lines(config.vocabulary)
    begins = f"{begins} to the vocabulary {config.vocabulary}"
    column = dict(zip(config.names, config.columns, strict=True))[doubt.name]
    if not text.get(column, True):
        example = doubt.ids[doubt.table.codes(doubt.ids, -1) < 0][0]
        return f"{begins}: the data hold {example}, line 1 of the file {lines[0]!r}; is it of another column, or of codes?"
    values = [v for v in _values(data, config, column) if doubt.of_column(_text_ids([v])) == 0]
    example = (
        f"the data hold {values[0]!r}, line 1 of the file {lines[0]!r}"
        if values
        else f"line 1 of the file is {lines[0]!r}"
    )
    for what, mended in CAUSES:
        if (known := doubt.share_known(_text_ids(map(mended, lines)))) > max(0.5, 2 * doubt.known):
            return (
                f"{begins}: {example}; likely its lines have {what}, without which {known:.0%} would be known"
            )
        if doubt.of_column(_text_ids(map(mended, values))) > 0.5:
            return (
                f"{begins}: {example}; likely the column's values have {what}, and the file's lines have not"
            )
    return f"{begins}: {example}; is it the file of another column, or of another log?"


def _values(data: DataConfig, config: CategoricalConfig, column: str) -> list[str]:
    """Return some values of a text column as they stand in the log."""
    part = next(iter(open_source(data).parts([column])))
    values, _ = text_or_plain(one_array(part.read(Quarantine()).table[column]))
    if config.multivalued:
        try:
            values, _ = text_or_plain(one_array(lists(values, config.separator).flatten()))
        except WrongType:
            return []
    return [str(value) for value in values.slice(0, SAMPLED).drop_null().unique().to_pylist()]


def _text_ids(texts: object) -> np.ndarray:
    return string_ids(pa.array(list(texts), pa.string()))  # type: ignore[call-overload]
