"""What is likely not meant, though it can be prepared: `prepare` says it, and writes it into its manifest."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID, string_ids
from recsys_pipelines.config import CategoricalConfig, DataConfig, SplitConfig
from recsys_pipelines.features import Categorical, Features
from recsys_pipelines.features.categorical import vocabulary_lines
from recsys_pipelines.features.convert import WrongType, lists, one_array, text_or_plain
from recsys_pipelines.features.declared import fits_of
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
    declared = {name: getattr(split, name) for name in splits}
    shares = {name: counts.rows / total for name, counts in splits.items()}
    doubts = []
    if any(not 1 / FAR_OFF <= shares[name] / declared[name] <= FAR_OFF for name in splits):
        actual = ", ".join(f"{name} {splits[name].rows:,} rows ({shares[name]:.0%})" for name in splits)
        expected = ", ".join(f"{share:.0%}" for share in declared.values())
        cure = (
            "rows of one time stay together, so split by a finer time (data.time), by order, or at shares that the "
            "times allow"
            if split.by == "time"
            else "bring more rows, or other shares"
        )
        doubts.append(f"data.split: by {split.by} gives {actual} where {expected} were asked for; {cure}")
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
            doubts.append(f"{same}; {then}")
    return doubts


def vocabulary_doubts(data: DataConfig, features: Features, counts_file: Path) -> list[str]:
    """Name the features of which nearly all values in training are outside their vocabulary, and the likely cause.

    Args:
        data: The log, of which an example is read.
        features: The fitted features.
        counts_file: What they were fitted from.
    """
    places = {name: place for place, name in enumerate(fits_of(features.configs))}
    fitted = {feature.name: feature for feature in features.features}
    doubts = []
    with np.load(counts_file, allow_pickle=False) as counted:
        for config in features.configs:
            if not config.categorical or getattr(config, "encoding", "hash") != "vocabulary":
                continue
            for name in config.names:
                feature = fitted[name]
                if not isinstance(feature, Categorical) or f"{places[name]}.ids" not in counted:
                    continue
                ids, counts = counted[f"{places[name]}.ids"], counted[f"{places[name]}.counts"]
                coverage = _Coverage(feature, ids, counts)
                if coverage.unknown >= NEARLY_ALL:
                    doubts.append(_doubt(data, config, coverage, features))
    return doubts


class _Coverage:
    """The values of a feature in training, and what share of them its vocabulary has."""

    def __init__(self, feature: Categorical, ids: np.ndarray, counts: np.ndarray) -> None:
        present = ids != MISSING_ID
        self.name, self.ids, self.counts = feature.name, ids[present], counts[present]
        self.total = int(self.counts.sum())
        self.vocabulary, self.size = feature.vocabulary, len(feature.vocabulary)
        self.strangers = self.vocabulary.positions(self.ids) < 0
        self.known = float(self.counts[~self.strangers].sum() / max(1, self.total))
        self.unknown = 1 - self.known if self.total else 0.0

    def share_known(self, ids: np.ndarray) -> float:
        """Return the share of the values that another vocabulary would have."""
        return float(self.counts[np.isin(self.ids, ids)].sum() / max(1, self.total))

    def share_of(self, ids: np.ndarray) -> float:
        """Return the share of other ids that the vocabulary has."""
        return float(np.mean(self.vocabulary.positions(ids) >= 0)) if len(ids) else 0.0


def _doubt(data: DataConfig, config: object, coverage: _Coverage, features: Features) -> str:
    """Name the feature, and the likely cause of its unknown values."""
    unknown = (
        f"{round(coverage.unknown * coverage.total):,} of its {coverage.total:,} values in training "
        f"({coverage.unknown:.1%})"
    )
    begins = f"feature {coverage.name!r}: {unknown} are unknown"
    few = f"leaves {coverage.size:,} of {len(coverage.ids):,} ids"
    if not isinstance(config, CategoricalConfig) or (config.vocabulary, config.keep) == (None, None):
        rare = f"min_count {getattr(config, 'min_count', 1)} {few}"
        return f"{begins}: {rare}, so the feature says next to nothing; lower it, or hash the feature"
    if config.keep is not None:
        return (
            f"{begins}: `keep` {few}; is {config.keep} of "
            "this feature, and of ids of the same kind (text, or integers)?"
        )
    assert config.vocabulary is not None
    lines = vocabulary_lines(config.vocabulary)
    begins = f"{begins} to the vocabulary {config.vocabulary}"
    column = dict(zip(config.names, config.columns, strict=True))[coverage.name]
    if not features.text.get(column, True):
        example = features.published_ids(coverage.name, coverage.ids[coverage.strangers])[0]
        return f"{begins}: the data hold {example}, line 1 of the file {lines[0]!r}; is it of another column, or of codes?"
    return f"{begins}: {_cause(coverage, lines, _values(data, config, column))}"


def _cause(coverage: _Coverage, lines: list[str], values: list[str]) -> str:
    """Compare lines of a vocabulary with values of its column: what would make them agree?"""
    strangers = [value for value in values if coverage.share_of(_text_ids([value])) == 0]
    example = f"line 1 of the file is {lines[0]!r}"
    if strangers:
        example = f"the data hold {strangers[0]!r}, line 1 of the file {lines[0]!r}"
    for excess, mended in CAUSES:
        if (known := coverage.share_known(_text_ids(map(mended, lines)))) > max(0.5, 2 * coverage.known):
            return f"{example}; likely its lines have {excess}, without which {known:.0%} would be known"
        if coverage.share_of(_text_ids(map(mended, strangers))) > 0.5:
            return f"{example}; likely the column's values have {excess}, and the file's lines have not"
    return f"{example}; is it the file of another column, or of another log?"


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
