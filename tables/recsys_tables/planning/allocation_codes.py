"""Budgets of schemes of vocabulary codes: sizes are arithmetic of their number. One function a scheme.

A builder deals the share itself; a menu lists the schemes of one feature for `allocation.largest_options`.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from recsys_tables.bytes import ADAM_BYTES, combine_bytes
from recsys_tables.config import (
    ChineseRemainderTables,
    CompactTables,
    FullTables,
    MixedDimensionTables,
    MixedRadixTables,
    PathBasedTables,
    QuotientRemainderTables,
    TensorTrainTables,
)
from recsys_tables.planning.allocation import Builder, FeatureSize
from recsys_tables.remap import Remap
from recsys_tables.scheme import Scheme
from recsys_tables.schemes import (
    ChineseRemainder,
    Compact,
    Full,
    MixedDimension,
    MixedRadix,
    PathBased,
    QuotientRemainder,
    TensorTrain,
    coprime_moduli,
    popularity_dims,
)

Menu = Iterator[Scheme]

_UNKNOWN = 1  # the code that all ids outside a vocabulary share


def full(config: FullTables, features: Sequence[FeatureSize]) -> Builder:
    """One size only."""
    schemes = tuple(
        Full(feature.name, feature.codes("full"), config.embedding_dim, config.init_bound)
        for feature in features
    )
    return lambda share: schemes


def compact(config: CompactTables, features: Sequence[FeatureSize]) -> Builder:
    """One size only: the declared widths, for every code or every one but that of unknown ids."""
    config.check([feature.name for feature in features])

    def scheme(feature: FeatureSize) -> Compact:
        keep = np.ones(feature.codes("compact"), np.bool_)
        if config.unknown == "zero":
            keep[_UNKNOWN] = False
        width = config.widths[feature.name]
        return Compact(feature.name, Remap.of(keep), width, config.embedding_dim, "zero", config.init_bound)

    schemes = tuple(scheme(feature) for feature in features)
    return lambda share: schemes


def quotient_remainder(config: QuotientRemainderTables, features: Sequence[FeatureSize]) -> Builder:
    """Each feature's share of its own ids, never fewer than 2·√ids rows."""
    codes = [feature.codes("quotient_remainder") for feature in features]

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            QuotientRemainder(
                feature.name,
                num_ids,
                _divisor(num_ids, share),
                config.embedding_dim,
                config.operation,
                config.init_bound,
            )
            for feature, num_ids in zip(features, codes, strict=True)
        )

    return build


def mixed_dimension(config: MixedDimensionTables, features: Sequence[FeatureSize]) -> Builder:
    """Widths d_f = λ · n_f^-alpha; λ, and so every width, is in proportion to the share."""
    codes = {feature.name: feature.codes("mixed_dimension") for feature in features}
    widest = config.embedding_dim
    spread = (max(codes.values(), default=1) / min(codes.values(), default=1)) ** config.alpha

    def build(share: float) -> tuple[Scheme, ...]:
        # a share of 1 gives the largest feature the full width, and so all of them
        widths = popularity_dims(codes, widest, config.alpha, share * widest * spread)
        return tuple(
            MixedDimension(
                name, num_ids, _worthwhile(widths[name], widest, num_ids), widest, config.init_bound
            )
            for name, num_ids in codes.items()
        )

    return build


def mixed_radix(config: MixedRadixTables, feature: FeatureSize) -> Menu:
    """Radices m and m + 1 for all digits but the first, from m = 1 to that of fewest rows, about the k-th root."""
    num_ids, k = feature.codes("mixed_radix"), config.num_tables
    for radix in range(1, math.ceil(num_ids ** (1 / k)) + 2):
        for larger in range(k - 1):
            radices = (radix,) * (k - 1 - larger) + (radix + 1,) * larger
            yield MixedRadix(
                feature.name, num_ids, radices, config.embedding_dim, config.operation, config.init_bound
            )


def chinese_remainder(config: ChineseRemainderTables, feature: FeatureSize) -> Menu:
    """About equal moduli, the smallest from the k-th root of the ids up to their number in steps of 5 %."""
    num_ids, k = feature.codes("chinese_remainder"), config.num_tables
    smallest = 1
    while smallest <= num_ids:
        moduli = coprime_moduli(num_ids, k, smallest)
        yield ChineseRemainder(
            feature.name, num_ids, moduli, config.embedding_dim, config.operation, config.init_bound
        )
        smallest = max(moduli[0] + 1, int(1.05 * moduli[0]))


def path_based(config: PathBasedTables, feature: FeatureSize) -> Menu:
    """From one network and a row for every id to the number of networks of fewest bytes."""
    num_ids = feature.codes("path_based")

    def scheme(paths: int) -> PathBased:
        divisor = -(-num_ids // paths)
        return PathBased(
            feature.name, num_ids, divisor, config.embedding_dim, config.hidden_dim, config.init_bound
        )

    network = combine_bytes(scheme(1)).total
    row = 4 * config.embedding_dim
    for paths in range(1, min(num_ids, math.isqrt(num_ids * row // network) + 1) + 1):
        yield scheme(paths)


def tensor_train(config: TensorTrainTables, feature: FeatureSize) -> Menu:
    """Three digits of about the cube root of the ids; the rank goes up to `max_rank`."""
    num_ids = feature.codes("tensor_train")
    radix = math.ceil(round(num_ids ** (1 / 3), 6))
    for rank in range(1, config.max_rank + 1):
        yield TensorTrain(
            feature.name, num_ids, (radix, radix), config.embedding_dim, rank, config.init_bound
        )


def _worthwhile(row_dim: int, embedding_dim: int, num_ids: int) -> int:
    """The full width, where narrow rows with their projection and its optimiser would take as many bytes."""
    projection = (4 + ADAM_BYTES) * row_dim * embedding_dim
    return row_dim if 4 * num_ids * row_dim + projection < 4 * num_ids * embedding_dim else embedding_dim


def _divisor(ids: int, share: float) -> int:
    """Smallest m whose ⌈ids/m⌉ + m rows are at most share · ids, else the m of fewest rows, ⌈√ids⌉."""
    rows = share * ids
    fewest = math.isqrt(ids - 1) + 1 if ids > 1 else 1
    if rows * rows < 4 * ids:
        return fewest
    return min(fewest, max(1, math.ceil((rows - math.sqrt(rows * rows - 4 * ids)) / 2)))
