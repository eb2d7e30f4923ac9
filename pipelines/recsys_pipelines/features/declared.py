"""From declared features to what is done: the columns each reads (`specs`), and its fit."""

from collections.abc import Callable, Sequence
from typing import Any

from recsys_pipelines.config import (
    BucketsConfig,
    CategoricalConfig,
    CrossConfig,
    DateConfig,
    FeatureConfig,
    NumericConfig,
    PrefixesConfig,
    SequenceConfig,
    StatisticConfig,
    TokensConfig,
)
from recsys_pipelines.features.base import Fit
from recsys_pipelines.features.categorical import CategoricalFit
from recsys_pipelines.features.convert import ColumnSpec, Spec
from recsys_pipelines.features.derive import VALUES, Cross, DatePart, Events, Prefixes, Tokens, Weights
from recsys_pipelines.features.numeric import BucketsFit, NumericFit
from recsys_pipelines.features.statistics import StatisticFit

Parts = tuple[dict[str, Spec], dict[str, Fit]]  # typed columns, and fits by the feature's name


def specs_of(configs: Sequence[FeatureConfig]) -> dict[str, Spec]:
    """Return the typed columns that the features read. Raises ValueError for a feature declared twice."""
    return _all(configs)[0]


def serving_specs_of(configs: Sequence[FeatureConfig]) -> dict[str, Spec]:
    """Return the same for rows of no log, which bring their sequences as lists under the feature's name."""
    lists = {s.name: Events(s.name, s.column, s.length, s.separator) for s in sequences_of(configs)}
    return specs_of(configs) | lists


def fits_of(configs: Sequence[FeatureConfig]) -> dict[str, Fit]:
    """Return an empty fit of each feature, in the order of their declaration."""
    return _all(configs)[1]


def sequences_of(configs: Sequence[FeatureConfig]) -> list[SequenceConfig]:
    """Return the features that look at other rows of the same user."""
    return [config for config in configs if isinstance(config, SequenceConfig)]


def _all(configs: Sequence[FeatureConfig]) -> Parts:
    specs: dict[str, Spec] = {}
    fits: dict[str, Fit] = {}
    for config in configs:
        more_specs, more_fits = KINDS[config.kind](config)
        for name in more_specs:
            if name in specs:
                raise ValueError(f"feature {name!r} is declared twice")
        specs |= more_specs
        fits |= more_fits
    return specs, fits


def _categorical(config: CategoricalConfig) -> Parts:
    specs: dict[str, Spec] = {}
    fits: dict[str, Fit] = {}
    for name, column in zip(config.names, config.columns, strict=True):
        if config.multivalued:
            specs[name] = ColumnSpec(column, "ids", separator=config.separator)
        else:
            specs[name] = ColumnSpec(column, config.buckets or "id")
        if config.weights is not None:
            specs[f"{name}:weights"] = Weights(column, config.weights, config.separator)
        settings = _settings(config, name, config.multivalued, config.pooling, config.weights is not None)
        fixed = None if config.vocabulary is None else str(config.vocabulary)
        fits[name] = CategoricalFit(settings, config.min_count, fixed, column, _keep(config), config.form)
    return specs, fits


def _cross(config: CrossConfig) -> Parts:
    settings = _settings(config, config.name, False, "sum")
    fit = CategoricalFit(settings, config.min_count, keep=_keep(config), form=config.form)
    return {config.name: Cross(config.columns)}, {config.name: fit}


def _tokens(config: TokensConfig) -> Parts:
    return _lists(config, lambda column: Tokens(column, config.lowercase, config.ngrams, config.max_tokens))


def _prefixes(config: PrefixesConfig) -> Parts:
    return _lists(config, lambda column: Prefixes(column, config.lengths))


def _lists(config: TokensConfig | PrefixesConfig, spec: Callable[[str], Spec]) -> Parts:
    named = list(zip(config.names, config.columns, strict=True))
    return {name: spec(column) for name, column in named}, {
        name: CategoricalFit(
            _settings(config, name, True, config.pooling),
            config.min_count,
            keep=_keep(config),
            form=config.form,
        )
        for name, _ in named
    }


def _date(config: DateConfig) -> Parts:
    named = list(zip(config.names, config.parts, strict=True))
    settings = {"encoding": "vocabulary", "unknown": "code", "multivalued": False, "pooling": "sum"}
    return {name: DatePart(config.column, part, config.format) for name, part in named}, {
        name: CategoricalFit({"name": name, **settings}, 1, VALUES.get(part)) for name, part in named
    }


def _buckets(config: BucketsConfig) -> Parts:
    named = list(zip(config.names, config.columns, strict=True))
    return {name: ColumnSpec(column, "number") for name, column in named}, {
        name: BucketsFit(name, config.boundaries, config.quantiles) for name, _ in named
    }


def _sequence(config: SequenceConfig) -> Parts:
    settings = _settings(config, config.name, True, config.pooling)
    fit = CategoricalFit(settings, config.min_count, form=config.form)
    return {config.name: ColumnSpec(config.column, "id")}, {config.name: fit}


def _numeric(config: NumericConfig) -> Parts:
    low, high = config.clip
    named = zip(config.names, config.columns, strict=True)
    return {name: ColumnSpec(column, "number") for name, column in named}, {
        name: NumericFit(name, low, high, config.transform, config.standardise) for name in config.names
    }


def _statistic(config: StatisticConfig) -> Parts:
    named = list(zip(config.names, config.columns, strict=True))
    return {name: ColumnSpec(column, "id") for name, column in named}, {
        name: StatisticFit(name, name.removesuffix(config.suffix), config.of, config.folds, config.smoothing)
        for name in config.names
    }


def _keep(config: Any) -> str | None:
    return None if config.keep is None else str(config.keep)


def _settings(
    config: Any, name: str, multivalued: bool, pooling: str, weighted: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "encoding": config.encoding,
        "unknown": config.unknown,
        "multivalued": multivalued,
        "pooling": pooling,
        "weighted": weighted,
    }


KINDS: dict[str, Callable[[Any], Parts]] = {
    "categorical": _categorical,
    "cross": _cross,
    "tokens": _tokens,
    "prefixes": _prefixes,
    "date": _date,
    "buckets": _buckets,
    "sequence": _sequence,
    "numeric": _numeric,
    "statistic": _statistic,
}
