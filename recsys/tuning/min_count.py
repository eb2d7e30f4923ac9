"""The value `fit` of a minimum count is computed: the smallest with which full tables fit their budget.

The size of a full table follows from its width and its vocabularies alone. Under a budget a list of minimum counts leaves
hardly one that fits; computed, the plainest rival of every scheme gets as many ids as its bytes can hold, at every width.
"""

from bisect import bisect_left
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from recsys.config import ExperimentConfig
from recsys.planning import sizes_of, statistics_bytes
from recsys_cython_ext.vocabulary import FIRST_CODE
from recsys_pipelines.config import CategoricalConfig
from recsys_pipelines.encoding.vocabulary import EXACT, vocabulary_bytes, vocabulary_of
from recsys_pipelines.features import Categorical, FeatureFitter, Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.planning.plan import BudgetError, plan_tables


def smallest_min_count(config: ExperimentConfig, prepared: str | Path) -> int:
    """Return the smallest `features.min_count` with which the full tables of `config` fit their budget.

    Args:
        config: An experiment of full tables.
        prepared: A set of the same data and features, whatever its minimum counts and the forms of its vocabularies:
            only what was counted is read.

    Raises:
        BudgetError: Not even the most frequent ids fit.
        ConfigError: The tables are of another scheme.
    """
    config.require_full_tables(config.name)
    tables = _FullTables(config, Path(prepared))
    smallest = bisect_left(range(1, tables.most), True, key=tables.fits) + 1
    while smallest < tables.most and not tables.fits(smallest, built=True):
        smallest += 1  # some vocabulary of fingerprints takes more than the least that so many ids do
    tables.plan(smallest, built=True)  # raises where not even one id is left that fits
    return smallest


class _FullTables:
    """The full tables of an experiment at any minimum count. most: Of an id's impressions."""

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._features, self._frequencies = _frequencies(folder)
        self._forms = {name: f.form for f in config.features if f.kind == "categorical" for name in f.names}
        self._built: dict[tuple[str, int], int] = {}  # bytes by feature and number of ids
        self.most = max((int(counts[-1]) for counts in self._frequencies.values() if len(counts)), default=1)

    def fits(self, min_count: int, built: bool = False) -> bool:
        """Tell whether they fit the budget; see `plan`."""
        try:
            self.plan(min_count, built)
        except BudgetError:
            return False
        return True

    def plan(self, min_count: int, built: bool = False) -> None:
        """Raise BudgetError unless they fit the budget, with vocabularies as they are built, or at least as large."""
        config, features = self._config, self._features
        sizes = []
        for size, feature in zip(sizes_of(config, features), features.categorical, strict=True):
            like = feature.like if isinstance(feature, Categorical) else None
            counts = self._frequencies.get(like or feature.name)
            if counts is not None:
                known = len(counts) - int(np.searchsorted(counts, min_count))
                resident = 0 if like is not None else self._bytes(feature.name, known, min_count, built)
                size = replace(size, num_codes=FIRST_CODE + known, vocabulary_bytes=resident)
            sizes.append(size)
        plan_tables(config.tables, sizes, config.training.table_optimizer, statistics_bytes(features))

    def _bytes(self, name: str, num_ids: int, min_count: int, built: bool) -> int:
        """Return the bytes of the vocabulary of the ids that occur `min_count` times, of which there are `num_ids`."""
        form = self._forms[name]
        if not built or form == EXACT:
            return vocabulary_bytes(num_ids, form)
        if (name, num_ids) not in self._built:
            ids = self._counts.vocabulary_of(name, min_count)
            self._built[name, num_ids] = vocabulary_of(ids, form).nbytes
        return self._built[name, num_ids]

    @cached_property
    def _counts(self) -> FeatureFitter:
        return Prepared.open(self._folder).counts()


@lru_cache(maxsize=2)
def _frequencies(folder: Path) -> tuple[Features, dict[str, np.ndarray]]:
    """Return a set's features, and rising numbers of impressions of the ids of those that `features.min_count` is of."""
    prepared = Prepared.open(folder)
    features, counts = prepared.features(), prepared.counts()
    names = [
        name
        for declared in features.configs
        if isinstance(declared, CategoricalConfig)
        and declared.encoding == "vocabulary"
        and declared.vocabulary is None
        for name in declared.names
    ]
    return features, {name: counts.frequencies_of(name) for name in names}
