"""A search chooses among compact models, which have a width for every field and rows for some of its ids.

A genome is one of them. Its bytes are those that the plan of its compact model will count, all resident ones: a search
that does not pay for vocabularies and remaps keeps ids that cost more than they are worth.

Symbols: F fields, V codes of a field, of which the first two (missing, unknown) are no ids and always keep a row.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, repeat, takewhile
from typing import Any

import numpy as np

from recsys_cython_ext.vocabulary import FIRST_CODE, UNKNOWN_CODE
from recsys_pipelines.encoding.vocabulary import EXACT, vocabulary_bytes
from recsys_tables.bytes import OptimizerName
from recsys_tables.planning.plan import BudgetError
from recsys_tables.scheme import Precision
from recsys_tables.schemes.compact import compact_bytes

HANDFUL = 4  # ids; the grid of rows goes from fewer to none
SHARES = 2**20  # steps of a share of ids


@dataclass(frozen=True)
class Genome:
    """The width and the number of kept ids of each field, in the order of its space.

    widths: 0, 4, 8, …; 0 gives up the field. rows: ids kept beside the reserved codes, 0 for a field given up.
    Raises ValueError naming the position of a field where they are none of these.
    """

    widths: tuple[int, ...]
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.rows):
            raise ValueError(f"a genome of {len(self.widths)} widths, but {len(self.rows)} numbers of rows")
        for i, (width, rows) in enumerate(zip(self.widths, self.rows, strict=True)):
            if width < 0 or width % 4 or rows < 0 or (width == 0 and rows > 0):
                raise ValueError(
                    f"field {i} of a genome: width {width} and {rows} rows; widths are 0, 4, 8, …, rows 0 or "
                    "more, and 0 where the width is"
                )

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain values, ready for JSON."""
        return {"widths": list(self.widths), "rows": list(self.rows)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Genome":
        """Read what `to_dict` wrote. Raises ValueError where it is of another form."""
        try:
            widths, rows = values["widths"], values["rows"]
            if any(type(value) is not int for value in [*widths, *rows]):
                raise TypeError
        except (KeyError, TypeError):
            raise ValueError(
                f"{values!r} is no genome: it takes lists of integers, `widths` and `rows`"
            ) from None
        return cls(tuple(widths), tuple(rows))


@dataclass(frozen=True, eq=False)
class Learned:
    """The weights, scores and widths that a learner leaves, by feature.

    weights: float32 [V, D], effective values: masks that belong to the learner are applied.
    score: float64 [V], importance; above 0 where the learner keeps the row, and comparable over features.
    widths: the widest useful width, D where the learner does not choose widths.
    default: float32 [D], what a pruned id reads instead of its row; zeros unless given.
    """

    weights: dict[str, np.ndarray]
    score: dict[str, np.ndarray]
    widths: dict[str, int]
    default: dict[str, np.ndarray] = field(default_factory=dict)

    def masked(self, feature: str, keep: np.ndarray, width: int) -> np.ndarray:
        """Return the weights [V, D] of a feature under a mask of rows, bool [V], and of columns.

        The row of unknown ids is the default too.
        """
        default = self.default.get(feature, np.zeros(self.weights[feature].shape[1], np.float32))
        weights = np.where(keep[:, None], self.weights[feature], default)
        weights[UNKNOWN_CODE] = default
        weights[:, width:] = 0
        return weights


@dataclass(frozen=True, eq=False)
class GenomeSpace:
    """All genomes of the fields `features`, and what they cost.

    num_codes, scores: V and the learner's score [V] of each feature; ids with a score above 0 can be kept, best first.
    widths: the widest useful width of each; embedding_dim unless given.
    whole: features whose codes cannot leave, such as a number's buckets, with the bytes of their vocabularies; they
        have all rows or, with width 0, none.
    statistics: bytes of id -> number tables, which every genome has.
    precision, form: of the rows, and of the vocabularies of ids that are kept.

    Raises ValueError naming the feature whose scores or width do not fit, or when no field may have a width.
    """

    features: tuple[str, ...]
    num_codes: Mapping[str, int]
    scores: Mapping[str, np.ndarray]
    embedding_dim: int
    widths: Mapping[str, int] | None = None
    optimizer: OptimizerName = "rowwise_adagrad"
    whole: Mapping[str, int] = field(default_factory=dict)
    statistics: int = 0
    precision: Precision = "fp32"
    form: str = EXACT

    def __post_init__(self) -> None:
        self._check_names()
        for name in self.features:
            score, codes = self.scores[name], self.num_codes[name]
            if score.shape != (codes,):
                raise ValueError(
                    f"feature {name!r} has {codes} codes, but scores of shape {score.shape}: "
                    "was it learnt on this data?"
                )
            if np.isnan(score).any():
                raise ValueError(
                    f"feature {name!r}: the score of code {int(np.isnan(score).argmax())} is NaN"
                )
            width = self._widest(name)
            if width % 4 or not 0 <= width <= self.embedding_dim:
                raise ValueError(
                    f"feature {name!r}: width {width} is none of 0, 4, 8, … up to embedding_dim "
                    f"{self.embedding_dim}"
                )
        if not any(self._widest(name) for name in self.features):
            raise ValueError("the widest width of every feature is 0: there is nothing to search")

    @cached_property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        """Return 0, 4, … up to the widest useful width, for each field."""
        return tuple(tuple(range(0, self._widest(name) + 1, 4)) for name in self.features)

    @property
    def widths_for_all(self) -> tuple[int, ...]:
        """Return the widths above 0 that one could give to all fields: 4, 8, … up to the widest of any."""
        return max(self.width_choices, key=len)[1:]

    @cached_property
    def row_choices(self) -> tuple[tuple[int, ...], ...]:
        """Return falling numbers of rows for each field: its ids, those over √2, over 2, … down to a handful, and 0."""
        return tuple(
            (most,) if name in self.whole else _grid(most)
            for name, most in zip(self.features, self._most_rows, strict=True)
        )

    def bytes(self, genome: Genome) -> int:
        """Count all resident bytes of the compact model in training, as its plan does. Raises as `check` does."""
        self.check(genome)
        return self._bytes(genome)

    def field_bytes(self, i: int, width: int, rows: int) -> int:
        """Return the bytes of field number i alone: of a `Compact` of a vocabulary of `rows` ids, and of these."""
        name = self.features[i]
        codes = self.num_codes[name] if name in self.whole else FIRST_CODE + rows
        vocabulary = self.whole[name] if name in self.whole else vocabulary_bytes(rows, self.form)
        return compact_bytes(codes, width, self.optimizer, self.precision) + vocabulary

    def keep(self, genome: Genome) -> dict[str, np.ndarray]:
        """Tell which codes keep a row, bool [V] by feature: the reserved ones and the best ids. Raises as `check` does."""
        self.check(genome)
        masks = {}
        for i, name in enumerate(self.features):
            keep = np.zeros(self.num_codes[name], np.bool_)
            keep[:FIRST_CODE] = genome.widths[i] > 0
            keep[self._ranked[i][: genome.rows[i]]] = True
            masks[name] = keep
        return masks

    def check(self, genome: Genome) -> None:
        """Raise ValueError naming the field where `genome` is none of this space, or gives up every field."""
        if len(genome.widths) != len(self.features):
            raise ValueError(
                f"a genome of {len(genome.widths)} fields, but the space has {len(self.features)}: "
                f"{', '.join(self.features)}"
            )
        for i, (name, width, rows) in enumerate(zip(self.features, genome.widths, genome.rows, strict=True)):
            if width not in self.width_choices[i]:
                raise ValueError(f"feature {name!r}: width {width} is above {self._widest(name)}")
            most = self._most_rows[i]
            if rows > most or (name in self.whole and width and rows < most):
                allowed = f"all {most}" if name in self.whole else f"0 to {most}"
                raise ValueError(f"feature {name!r}: {rows} rows, but it keeps {allowed}")
        if not any(genome.widths):
            raise ValueError("a genome that gives up every field: give at least one of them a width")

    def everything(self) -> Genome:
        """Return the largest genome: all that the learner keeps."""
        return self.uniform(self.embedding_dim, 1.0)

    def uniform(self, width: int, share: float) -> Genome:
        """Return one width, or each field's widest where that is less, and the same share of the ids of every field."""
        return self._with_rows(width, [round(share * most) for most in self._most_rows])

    def uniform_share(self, width: int, budget_bytes: int) -> float:
        """Return the largest share of ids with which `uniform` fits the budget, 0 where none does."""
        most = _largest(SHARES, lambda n: self._bytes(self.uniform(width, n / SHARES)) <= budget_bytes)
        return most / SHARES

    def by_score(self, width: int, budget_bytes: int) -> Genome:
        """Return one width, or each field's widest where that is less, and the best ids of all fields together that fit.

        Of equal scores, the more frequent id of its field comes first. Raises BudgetError as `fit` does.
        """

        def genome(n: int) -> Genome:
            return self._with_rows(width, [bisect_left(places, n) for places in self._places])

        total = sum(len(places) for places in self._places)
        most = _largest(total, lambda n: self._bytes(genome(n)) <= budget_bytes)
        return self.fit(genome(most), budget_bytes)

    def fit(self, genome: Genome, budget_bytes: int) -> Genome:
        """Take rows, and when there are none left columns, from the field with most bytes until the genome fits.

        A step is one of the grid, and the last only as long as it must be. A genome that fits is returned as it is.
        Raises BudgetError where not even the row of unknown ids of every field fits, and as `check` does.
        """
        self.check(genome)
        if budget_bytes < self.least_bytes:
            raise BudgetError(
                f"the smallest tables that keep every field need {self.least_bytes:,} bytes, the budget is "
                f"{budget_bytes:,}; raise it, or leave features out",
                self.least_bytes,
            )
        widths, rows = list(genome.widths), list(genome.rows)
        costs = [self.field_bytes(i, widths[i], rows[i]) for i in range(len(widths))]
        while (excess := self.statistics + sum(costs) - budget_bytes) > 0:
            have_rows = [i for i, n in enumerate(rows) if n and self.features[i] not in self.whole]
            i = max(have_rows or [i for i, width in enumerate(widths) if width > 4], key=costs.__getitem__)
            if have_rows:
                rows[i] = self._fewer_rows(i, widths[i], rows[i], costs[i] - excess)
            else:
                widths[i] -= 4
            costs[i] = self.field_bytes(i, widths[i], rows[i])
        return Genome(tuple(widths), tuple(rows))

    @cached_property
    def least_bytes(self) -> int:
        """Return the bytes of the smallest genome that gives up no field it may have; `fit` reaches every larger budget."""
        return self._bytes(self._with_rows(4, [0] * len(self.features)))

    def _check_names(self) -> None:
        """Raise ValueError unless every feature has codes, scores and a width, and nothing else has; `whole` is of some."""
        complete = {"num_codes": self.num_codes, "scores": self.scores}
        complete |= {} if self.widths is None else {"widths": self.widths}
        for role, names in (complete | {"whole": self.whole}).items():
            missing = role in complete and not set(self.features) <= set(names)
            if missing or not set(names) <= set(self.features):
                raise ValueError(
                    f"{role} of {', '.join(names)}, but the features are {', '.join(self.features)}"
                )

    def _widest(self, name: str) -> int:
        return self.embedding_dim if self.widths is None else self.widths[name]

    def _with_rows(self, width: int, rows: list[int]) -> Genome:
        widths = [min(width, choices[-1]) for choices in self.width_choices]
        whole = [name in self.whole for name in self.features]
        numbers = [most if all_ else n for most, all_, n in zip(self._most_rows, whole, rows, strict=True)]
        return Genome(tuple(widths), tuple(n if w else 0 for w, n in zip(widths, numbers, strict=True)))

    def _bytes(self, genome: Genome) -> int:
        fields = map(self.field_bytes, range(len(self.features)), genome.widths, genome.rows)
        return self.statistics + sum(fields)

    def _fewer_rows(self, i: int, width: int, rows: int, limit: int) -> int:
        """Return the next number of the grid, or the largest above it with which the field's bytes are within `limit`."""
        following = next(n for n in self.row_choices[i] if n < rows)
        more = _largest(
            rows - 1 - following,
            lambda n: self.field_bytes(i, width, following + n) <= limit,
        )
        return following + more

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, ...]:
        """Return the codes of the ids that can be kept, best first, of equals the more frequent, for each field."""
        by_field = []
        for name in self.features:
            score = self.scores[name][FIRST_CODE:]
            best = np.argsort(-score, kind="stable")
            num_kept = len(score) if name in self.whole else np.count_nonzero(score > 0)
            by_field.append(best[:num_kept] + FIRST_CODE)
        return tuple(by_field)

    @cached_property
    def _most_rows(self) -> tuple[int, ...]:
        return tuple(map(len, self._ranked))

    @cached_property
    def _places(self) -> tuple[np.ndarray, ...]:
        """Return rising places of each field's ranked ids in one ranking over all fields."""
        scores = np.concatenate([self.scores[f][r] for f, r in zip(self.features, self._ranked, strict=True)])
        ends = np.cumsum([len(ranked) for ranked in self._ranked])
        place = np.empty(len(scores), np.int64)
        place[np.lexsort((np.concatenate(self._ranked), -scores))] = np.arange(len(scores))
        return tuple(np.split(place, ends[:-1]))


def _grid(most: int) -> tuple[int, ...]:
    shrinking = accumulate(repeat(2**-0.5), float.__mul__, initial=float(most))
    numbers = [round(n) for n in takewhile(lambda n: n >= HANDFUL, shrinking)] or [most]
    return (*numbers, 0) if most else (0,)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of 0..most that fits, when smaller ones do; 0 where none does."""
    return max(bisect_left(range(most + 1), True, key=lambda n: not fits(n)) - 1, 0)
