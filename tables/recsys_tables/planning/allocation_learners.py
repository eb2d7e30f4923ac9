"""Sizes of schemes that learn what to mask: one size only, for they are there to choose smaller tables by."""

from collections.abc import Callable, Sequence

from recsys_tables.config import (
    AutoDimTables,
    AutoSrhTables,
    DeepLightTables,
    MdeTables,
    OptEmbedTables,
    PepTables,
)
from recsys_tables.planning.allocation import Builder, FeatureSize
from recsys_tables.scheme import Scheme
from recsys_tables.schemes import AutoDim, AutoSrh, DeepLight, Mde, OptEmbed, Pep, popularity_dims


def opt_embed(config: OptEmbedTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code."""
    return _for_each(
        features,
        "opt_embed",
        lambda name, num_ids: OptEmbed(
            name,
            num_ids,
            config.embedding_dim,
            config.init_bound,
            config.threshold_by,
            config.alpha,
            config.threshold_lr,
        ),
    )


def pep(config: PepTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code."""
    return _for_each(
        features,
        "pep",
        lambda name, num_ids: Pep(
            name,
            num_ids,
            config.embedding_dim,
            config.init_bound,
            config.threshold_by,
            config.threshold_init,
            config.threshold_decay,
            config.threshold_lr,
        ),
    )


def deep_light(config: DeepLightTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code."""
    return _for_each(
        features,
        "deep_light",
        lambda name, num_ids: DeepLight(
            name, num_ids, config.embedding_dim, config.init_bound, config.sparsity, config.damping
        ),
    )


def auto_dim(config: AutoDimTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code."""
    return _for_each(
        features,
        "auto_dim",
        lambda name, num_ids: AutoDim(
            name,
            num_ids,
            config.embedding_dim,
            config.init_bound,
            config.alpha,
            config.annealing,
            config.choice_lr,
        ),
    )


def auto_srh(config: AutoSrhTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code."""
    return _for_each(
        features,
        "auto_srh",
        lambda name, num_ids: AutoSrh(
            name,
            num_ids,
            config.embedding_dim,
            config.init_bound,
            config.groups,
            config.l1,
            config.cut,
            config.scale_lr,
        ),
    )


def mde(config: MdeTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code, of the full width in the feature of fewest codes."""
    codes = {feature.name: feature.codes("mde") for feature in features}
    widths = popularity_dims(codes, config.embedding_dim, config.alpha)
    return _for_each(
        features,
        "mde",
        lambda name, num_ids: Mde(name, num_ids, widths[name], config.embedding_dim, config.init_bound),
    )


def _for_each(features: Sequence[FeatureSize], scheme: str, make: Callable[[str, int], Scheme]) -> Builder:
    schemes = tuple(make(feature.name, feature.codes(scheme)) for feature in features)
    return lambda share: schemes
