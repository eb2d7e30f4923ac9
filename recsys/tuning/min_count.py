"""The value `fit` of a minimum count is computed: the smallest with which full tables fit their budget.

The size of a full table follows from its width and its vocabularies alone. Under a budget a list of minimum counts leaves
hardly one that fits; computed, the plainest rival of every scheme gets as many ids as its bytes can hold, at every width.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from recsys.config import ExperimentConfig
from recsys.planning import sizes_of, statistics_bytes
from recsys_cython_ext.vocabulary import FIRST_CODE, table_bytes
from recsys_pipelines.config import CategoricalConfig
from recsys_pipelines.features import Features
from recsys_pipelines.features.categorical import Categorical
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.planning.plan import BudgetError, plan_tables
from recsys_tables.schemes.allocation import FeatureSize


def smallest_min_count(config: ExperimentConfig, prepared: str | Path) -> int:
    """Return the smallest `features.min_count` with which the full tables of `config` fit their budget.

    Args:
        config: An experiment of full tables.
        prepared: A set of the same data and features, whatever its minimum counts: only what was counted is read.

    Raises:
        BudgetError: Not even the most frequent ids fit.
        ConfigError: The tables are of another scheme.
    """
    config.require_full_tables(config.name)
    features, frequencies = _frequencies(Path(prepared))

    def plan(min_count: int) -> None:
        sizes = _sizes(config, features, frequencies, min_count)
        plan_tables(config.tables, sizes, config.training.table_optimizer, statistics_bytes(features))

    def fits(min_count: int) -> bool:
        try:
            plan(min_count)
        except BudgetError:
            return False
        return True

    most = max((int(counts[-1]) for counts in frequencies.values() if len(counts)), default=1)
    smallest = bisect_left(range(1, most), True, key=fits) + 1
    plan(smallest)  # raises where not even one id is left that fits
    return smallest


def _sizes(
    config: ExperimentConfig, features: Features, frequencies: Mapping[str, np.ndarray], min_count: int
) -> list[FeatureSize]:
    """Return the sizes of features whose vocabularies, where they can, hold the ids that occur `min_count` times."""
    sizes = []
    for size, feature in zip(sizes_of(config, features), features.categorical, strict=True):
        like = feature.like if isinstance(feature, Categorical) else None
        counts = frequencies.get(like or feature.name)
        if counts is not None:
            known = len(counts) - int(np.searchsorted(counts, min_count))
            vocabulary_bytes = 0 if like is not None else table_bytes(known)
            size = replace(size, num_codes=FIRST_CODE + known, vocabulary_bytes=vocabulary_bytes)
        sizes.append(size)
    return sizes


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
