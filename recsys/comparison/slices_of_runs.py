"""Slices of the test rows of runs, from what their prepared sets know: features, ids unseen or rare in training, time.

FEATURE             its most frequent values, buckets, or deciles of a number
new:FEATURE         rows whose id training never saw
frequency:FEATURE   how often training saw the row's id
time                days, or ten equal spans
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from recsys.comparison.slicing import (
    MISSING,
    by_decile,
    by_named_value,
    by_novelty,
    by_time,
    by_training_count,
    frequent,
)
from recsys.evaluation.arms.slices import Slicing
from recsys.training.run import Run
from recsys_cython_ext import MISSING_ID, string_ids
from recsys_pipelines.arrow import as_numpy
from recsys_pipelines.config import CategoricalConfig
from recsys_pipelines.encoding.vocabulary import FINGERPRINT, ONE_IN
from recsys_pipelines.features import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, Buckets, Categorical
from recsys_pipelines.features.plain import one_array, text_or_plain
from recsys_pipelines.preparation.prepared import ManifestError
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source
from recsys_pipelines.sources.base import SourceError

KINDS: dict[str, Callable[[str, np.ndarray, bool], Slicing]] = {
    "new": by_novelty,
    "frequency": by_training_count,
}
ESTIMATE = f"One id in {ONE_IN} that the vocabulary has not passes for one that it has (`form: fingerprint`)."


class TestRows:
    """The test rows of an arm's run, in the order of a pairing."""

    __test__ = False  # no class of tests

    def __init__(self, run: Run, row_ids: pa.Array) -> None:
        self.run = run
        self.prepared = run.prepared()
        self.rows = run.rows("test")
        paired, ids = as_numpy(row_ids), self.rows.row_id
        self._take: np.ndarray | None = None
        if not np.array_equal(ids, paired):
            order = np.argsort(ids)
            places = np.minimum(np.searchsorted(ids, paired, sorter=order), ids.size - 1)
            self._take = order[places]
            if not np.array_equal(ids[self._take], paired):
                raise ValueError(f"{self.prepared.path}: does not hold the test rows of {run.path}")

    @property
    def time(self) -> np.ndarray | None:
        """Return the time of each row, int64 [n], where `data.time` names its column."""
        return (
            self._taken(as_numpy(self.rows.table["@time"]))
            if "@time" in self.rows.table.column_names
            else None
        )

    @property
    def names(self) -> list[str]:
        """Return the features that rows can be sliced by the value of."""
        single = [f.name for f in self.rows.features.categorical if not f.multivalued]
        return [*single, *self.rows.features.numeric_columns]

    def feature(self, name: str) -> Categorical | Buckets | None:
        """Return the fitted feature of single ids with that name, None where there is none."""
        features = [f for f in self.rows.features.categorical if f.name == name and not f.multivalued]
        return features[0] if features else None

    def by_value(self, name: str) -> Slicing:
        """Slice the rows by a feature's values."""
        feature = self.feature(name)
        values = self._taken(as_numpy(self.rows.table[name]))
        if feature is None:
            note = "Deciles of the number as the model reads it, transformed and standardised."
            deciles = by_decile(name, values.astype(np.float64))
            return Slicing(name, deciles.names, deciles.codes, note)
        top = frequent(pa.array(values))
        names, note = _texts(self, feature, top.to_pylist())
        return by_named_value(name, pa.array(values), top, names, note)

    def training_counts(self, name: str) -> tuple[np.ndarray, bool]:
        """Return how often training saw the id of each row, int64 [n], and whether rare ids do not count as 0."""
        feature = self.feature(name)
        assert isinstance(feature, Categorical)
        counted = self.prepared.counts().arrays_of(name)
        encoded = self._taken(as_numpy(self.rows.table[name]))
        if feature.encoding == "hash":
            return _looked_up(counted["ids"], counted["counts"], encoded), True
        by_code = np.zeros(FIRST_CODE + len(feature.vocabulary), np.int64)
        missing, positions = counted["ids"] == MISSING_ID, feature.vocabulary.positions(counted["ids"])
        known = (positions >= 0) & ~missing
        by_code[MISSING_CODE] = counted["counts"][missing].sum()
        np.maximum.at(by_code, FIRST_CODE + positions[known], counted["counts"][known])
        codes = np.where(feature.is_unknown(encoded), UNKNOWN_CODE, encoded)
        return by_code[codes], bool((known | missing).all())

    def _taken(self, values: np.ndarray) -> np.ndarray:
        return values if self._take is None else values[self._take]


def run_slicings(runs: Sequence[Run], names: Sequence[str], row_ids: pa.Array) -> list[Slicing]:
    """Slice the paired rows by each of `names`.

    Args:
        runs: A run of each arm, the baseline's first; its features are preferred.
        names: What to slice by, as the module says.
        row_ids: Ids of the paired rows.

    Raises:
        ValueError: No arm has a name as a feature of single values, or rows have no time.
    """
    arms = [TestRows(run, row_ids) for run in runs]
    return [_slicing(arms, name) for name in names]


def run_times(run: Run, row_ids: pa.Array) -> np.ndarray | None:
    """Return the time of each paired row; None where the data name none, or the prepared set is gone or of 0.1."""
    if run.config.data.time is None:
        return None
    try:
        return TestRows(run, row_ids).time
    except ManifestError:
        return None


def _slicing(arms: Sequence[TestRows], name: str) -> Slicing:
    """Slice the rows by a name, by the features of the first arm that has it."""
    if name == "time":
        times = arms[0].time
        if times is None:
            raise ValueError(
                f"--slice time: the test rows of {arms[0].run.path} keep no time, because data.time is not set in its "
                "configuration: name the column there, and train again"
            )
        return by_time(name, times)
    kind, colon, of = name.partition(":")
    feature = of if colon else name
    able = [arm for arm in arms if feature in arm.names]
    if colon and kind not in KINDS:
        raise ValueError(f"--slice {name}: write FEATURE, new:FEATURE, frequency:FEATURE or time")
    if not able:
        raise ValueError(
            f"--slice {name}: no arm has a feature {feature!r} of one value a row; {arms[0].run.config.name} has "
            f"{', '.join(arms[0].names)}"
        )
    if not colon:
        return able[0].by_value(feature)
    able = [arm for arm in able if isinstance(arm.feature(feature), Categorical)]
    if not able:
        raise ValueError(f"--slice {name}: {feature} is a number, and only ids are new or frequent")
    able.sort(key=lambda arm: _form(arm, feature) == FINGERPRINT)
    counted = [(arm, *arm.training_counts(feature)) for arm in able]
    arm, counts, exact = next((one for one in counted if one[2]), counted[0])
    slicing = KINDS[kind](name, counts, exact)
    return (
        replace(slicing, note=f"{slicing.note} {ESTIMATE}".strip())
        if _form(arm, feature) == FINGERPRINT
        else slicing
    )


def _form(arm: TestRows, name: str) -> str | None:
    feature = arm.feature(name)
    return None if feature is None else feature.form


def _looked_up(ids: np.ndarray, counts: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the counts of `queries` [n], 0 where `ids` (rising) lack one."""
    if ids.size == 0:
        return np.zeros(queries.size, np.int64)
    places = np.minimum(np.searchsorted(ids, queries), ids.size - 1)
    return np.where(ids[places] == queries, counts[places], 0)


def _texts(rows: TestRows, feature: Categorical | Buckets, codes: Sequence[int]) -> tuple[list[str], str]:
    """Return the names of encoded values, and a note where some have a number only."""
    fixed = {} if feature.encoding == "hash" else {MISSING_CODE: MISSING, UNKNOWN_CODE: "(out of vocabulary)"}
    if isinstance(feature, Buckets):
        ends = [f"{end:.4g}" for end in (-np.inf, *feature.boundaries, np.inf)]
        names = {  # with their place, for ends may look the same
            FIRST_CODE + place: f"{place + 1}: {low} to {high}"
            for place, (low, high) in enumerate(pairwise(ends))
        }
        return [(fixed | names)[code] for code in codes], "Buckets hold their lower end."
    if feature.encoding == "hash":
        ids = {code: code for code in codes if code != MISSING_ID}
        fixed = {MISSING_ID: MISSING}
    else:
        ids = {code: code for code in codes if code < 0}  # of a hash
        known = np.array([code for code in codes if code >= FIRST_CODE], np.int64)
        counted = rows.prepared.counts().arrays_of(feature.name) if feature.form == FINGERPRINT else {}
        ids |= feature.ids_of(known, counted)
        fixed |= {code: f"code {code}" for code in codes if code not in ids and code not in fixed}
    config = [
        c for c in rows.rows.features.configs if isinstance(c, CategoricalConfig) and feature.name in c.names
    ]
    columns = dict(zip(config[0].names, config[0].columns, strict=True)) if config else {}
    text = not config or rows.rows.features.text.get(columns[feature.name], False)
    originals = _originals(rows.run, columns[feature.name], set(ids.values())) if text and config else {}
    published = rows.rows.features.published_ids(feature.name, np.array([*ids.values()], np.int64)).tolist()
    names = {
        code: originals.get(i, f"id {i}" if text else str(number))
        for (code, i), number in zip(ids.items(), published, strict=True)
    }
    note = "Some values are shown by their 64-bit id." if text and len(originals) < len(ids) else ""
    return [(fixed | names)[code] for code in codes], note


def _originals(run: Run, column: str, ids: set[int]) -> dict[int, str]:
    """Return the texts of ids, which are hashes, from the log itself: read as far as it takes to find them all."""
    texts_of: dict[int, str] = {}
    data = run.config.data
    try:
        for chunk in open_source(data, labelled=True).chunks([column], Quarantine(1.0)):
            texts = text_or_plain(one_array(chunk.table[column]))[0].unique().drop_null()
            for place in np.flatnonzero(np.isin(hashed := string_ids(texts), list(ids))).tolist():
                texts_of[int(hashed[place])] = texts[place].as_py()
            if texts_of.keys() == ids:
                break
    except (OSError, SourceError):  # the log is gone: ids have to do
        pass
    return texts_of
