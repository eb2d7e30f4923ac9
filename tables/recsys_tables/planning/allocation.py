"""How a budget is dealt to features: what they need, and the ways from rows per id (the *share*) to schemes.

Every way gives more bytes, or as many, to a larger share: `plan` finds the share of a budget by bisection.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recsys_tables.config import Allocation
from recsys_tables.scheme import MAX_ROWS, Scheme


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
        """Ids that reach the tables: an open vocabulary lets every one through."""
        return self.full_codes if self.num_codes is None or self.open else self.num_codes

    def codes(self, scheme: str) -> int:
        """Codes of a closed vocabulary. Raises ValueError when the feature has none."""
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
        """Codes of an open vocabulary. Raises ValueError when the feature has none."""
        if self.num_codes is None or not self.open:
            raise ValueError(
                f"feature {self.name!r}: the scheme {scheme!r} needs the codes of frequent ids and the rest as "
                "they are; set `encoding: vocabulary`, a `min_count`, and `unknown: hash` for it"
            )
        return self.num_codes


Builder = Callable[[float], tuple[Scheme, ...]]  # share -> one scheme per feature


def rows_by_feature(ids: Sequence[int], allocation: Allocation) -> Callable[[float], list[int]]:
    """From a share to the rows of features of so many ids: share · Σ ids in all, but at least one each.

    `proportional` gives a feature share · ids. Under `sqrt` a feature of 100 times the ids gets 10 times the
    rows, so that small features collide less and large ones more.
    """
    wanted = [float(n) for n in ids]
    if allocation == "sqrt":
        roots = [math.sqrt(n) for n in ids]
        wanted = [sum(ids) * root / (sum(roots) or 1.0) for root in roots]
    return lambda share: [whole_rows(share * rows) for rows in wanted]


def whole_rows(wanted: float) -> int:
    """At least one row, and no more than a table can number."""
    return max(1, min(int(wanted), MAX_ROWS - 1))


def largest_options(
    menus: Sequence[Iterable[Scheme]], full_bytes: Sequence[int], weigh: Callable[[Scheme], int]
) -> Builder:
    """From a share to the largest scheme of each feature's menu within share · its full table, else its smallest.

    For schemes whose sizes are arithmetic of the number of ids, and do not follow a number of rows.
    """
    sorted_menus = [
        sorted(((weigh(scheme), scheme) for scheme in menu), key=lambda o: o[0]) for menu in menus
    ]

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            menu[max(0, bisect_right(menu, share * full, key=lambda o: o[0]) - 1)][1]
            for menu, full in zip(sorted_menus, full_bytes, strict=True)
        )

    return build
