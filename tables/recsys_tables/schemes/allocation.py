"""How a budget is dealt to features: what they need, and the ways from rows per id (the *share*) to schemes.

Every way gives more bytes, or as many, to a larger share: `planning.plan` finds the share of a budget by bisection.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from recsys_tables.bytes import OptimizerName, resident_bytes, row_bytes
from recsys_tables.scheme import MAX_ROWS, Precision, Scheme

Allocation = Literal["proportional", "sqrt"]  # rows go by a feature's ids, or by their square root
Builder = Callable[[float], tuple[Scheme, ...]]  # share -> one scheme per feature


@dataclass(frozen=True)
class FeatureSize:
    """What a feature's ids need.

    `num_codes` counts the codes of its vocabulary, reserved ones included, None when ids are hashed;
    `open` says that ids outside the vocabulary come as themselves instead of as the code of unknown;
    `full_codes` those of a vocabulary that holds every id of training, whatever the minimum count.
    `vocabulary_bytes` and `full_vocabulary_bytes` are the resident sizes of the two.
    `reads` names the feature whose tables it reads, where it has none of its own; both have the same ids.
    """

    name: str
    num_codes: int | None
    full_codes: int
    vocabulary_bytes: int
    full_vocabulary_bytes: int
    open: bool = False
    reads: str | None = None

    @property
    def num_ids(self) -> int:
        """Return how many ids reach the tables: an open vocabulary lets every one through."""
        return self.full_codes if self.num_codes is None or self.open else self.num_codes

    def codes(self, scheme: str) -> int:
        """Return the number of codes of a closed vocabulary. Raises ValueError when the feature has none."""
        if self.open:
            raise ValueError(
                f"feature {self.name!r}: `unknown: hash` lets ids outside its vocabulary through, but the scheme "
                f"{scheme!r} needs codes; set `unknown: code`"
            )
        if self.num_codes is None:
            raise ValueError(
                f"feature {self.name!r} is hashed, but the scheme {scheme!r} needs vocabulary codes; "
                "set `encoding: vocabulary` for it"
            )
        return self.num_codes

    def open_codes(self, scheme: str) -> int:
        """Return the number of codes of an open vocabulary. Raises ValueError when the feature has none."""
        if self.num_codes is None or not self.open:
            raise ValueError(
                f"feature {self.name!r}: the scheme {scheme!r} needs the codes of frequent ids and the rest as "
                "they are; set `encoding: vocabulary`, a `min_count`, and `unknown: hash` for it"
            )
        return self.num_codes


def rows_by_feature(ids: Sequence[int], allocation: Allocation) -> Callable[[float], list[int]]:
    """Return the way from a share to the rows of features of so many ids: share · Σ ids in all, at least one each.

    `proportional` gives a feature share · ids. Under `sqrt` a feature of 100 times the ids gets 10 times the
    rows, so that small features collide less and large ones more.
    """
    at_share_one = [float(n) for n in ids]
    if allocation == "sqrt":
        roots = [math.sqrt(n) for n in ids]
        at_share_one = [sum(ids) * root / (sum(roots) or 1.0) for root in roots]
    return lambda share: [whole_rows(share * rows) for rows in at_share_one]


def whole_rows(rows: float) -> int:
    """Return a whole number of rows: at least one, and no more than a table can number."""
    return max(1, min(int(rows), MAX_ROWS - 1))


def largest_options(
    options: Callable[[FeatureSize], Iterable[Scheme]],
    features: Sequence[FeatureSize],
    embedding_dim: int,
    optimizer: OptimizerName,
    precision: Precision = "fp32",
) -> Builder:
    """Return the way from a share to the largest of each feature's options within that share of its full table.

    Where none fits, it is the smallest. This is for schemes whose sizes follow no number of rows.
    """
    by_bytes = [
        sorted(
            (
                (resident_bytes([scheme], 0, optimizer, precision=precision).total, scheme)
                for scheme in options(feature)
            ),
            key=lambda option: option[0],
        )
        for feature in features
    ]
    full_bytes = [feature.num_ids * row_bytes(embedding_dim, optimizer, precision) for feature in features]

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            menu[max(0, bisect_right(menu, share * full, key=lambda option: option[0]) - 1)][1]
            for menu, full in zip(by_bytes, full_bytes, strict=True)
        )

    return build
