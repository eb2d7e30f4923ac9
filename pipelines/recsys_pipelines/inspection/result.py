"""The result of an inspection: plain values, by split, by feature and by column."""

from dataclasses import asdict, dataclass
from typing import Any

Z95 = 1.959963984540054  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Rate:
    """A label rate with its Wilson 95 % interval (Wilson 1927); None where there is no row."""

    rows: int
    positives: int
    rate: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, rows: int, positives: int) -> "Rate":
        """Return the rate of so many positives among rows (or values)."""
        if rows == 0:
            return cls(0, 0, None, None)
        rate, square = positives / rows, Z95**2
        middle = (rate + square / (2 * rows)) / (1 + square / rows)
        half = Z95 / (1 + square / rows) * (rate * (1 - rate) / rows + square / (4 * rows**2)) ** 0.5
        return cls(rows, positives, rate, (max(middle - half, 0.0), min(middle + half, 1.0)))


@dataclass(frozen=True)
class SplitReport:
    """Rows and labels of a split.

    Attributes:
        label: The label rate; this and all other rates but the next count rows.
        weighted_rate: The label rate by the weights of the rows, where they have any.
        users: Distinct users, where known; a row without one is a user of its own.
        times: The smallest and the largest time, in the units of the data (dates are microseconds since 1970).
    """

    label: Rate
    weighted_rate: float | None
    users: int | None
    times: tuple[int, int] | None


@dataclass(frozen=True)
class ValuesReport:
    """The values of a categorical feature in a split; shares are of all values, None where there is none.

    Of lists it also has their mean and largest length.
    """

    values: int
    missing: int
    unknown: int
    missing_share: float | None
    unknown_share: float | None
    mean_length: float | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Skew:
    """How unequal the counts [U] of training's ids are, missing left out; None where there is no id.

    Attributes:
        top_id: Share of the impressions that goes to the most frequent id.
        top_percent: Share that goes to the most frequent 1 % of ids (rounded up).
        gini: 0 when all ids are equally frequent, to 1 when one has all.
        zipf: s of count ~ rank^-s, by least squares on the logarithms at ranks 1 to `zipf_ranks`, taken evenly in log
            rank; a description, not a test of the law (Clauset, Shalizi & Newman 2009).
        zipf_ranks: Number of ids seen ten times or more; below ten of them there is no slope.
        curve: (rank, count) of up to 64 ranks, evenly in log rank.
    """

    top_id: float | None
    top_percent: float | None
    gini: float | None
    zipf: float | None
    zipf_ranks: int
    curve: list[tuple[int, int]]


@dataclass(frozen=True)
class TopId:
    """One of the most frequent known ids of training: the 64-bit id as the log has it, or the number of a bucket."""

    id: int
    label: Rate


@dataclass(frozen=True)
class CategoricalReport:
    """The ids of a categorical feature.

    Attributes:
        encoding: vocabulary, hash or buckets.
        form: Of the vocabulary: exact, or fingerprint, for which numbers of known and unknown values are estimates.
        codes: Number of codes of a vocabulary, None when ids are hashed.
        ids: Distinct ids of training, missing left out.
        singletons: Those of them seen once.
        known, unknown, missing: Label rates of training's values.
        top: The ten most frequent known ids and their label rates.
    """

    name: str
    encoding: str
    form: str
    multivalued: bool
    codes: int | None
    ids: int
    singletons: int
    singleton_share: float | None
    splits: dict[str, ValuesReport]
    skew: Skew
    known: Rate
    unknown: Rate
    missing: Rate
    top: list[TopId]

    @property
    def top_rates(self) -> tuple[float, float] | None:
        """Return the lowest and the highest label rate of the most frequent ids."""
        rates = [top.label.rate for top in self.top if top.label.rate is not None]
        return (min(rates), max(rates)) if rates else None


@dataclass(frozen=True)
class Decile:
    """Training's values from `low` to `high`, bins of the histogram, and their label rate.

    number: 0 to 9, the tenth in which the smallest of them lies. A value with more than a tenth of the rows takes the
    deciles it covers, so that there may be fewer than ten.
    """

    number: int
    low: float
    high: float
    label: Rate


@dataclass(frozen=True)
class NumericReport:
    """A numeric column. value · deviation + mean is in the units of the data after `transform`.

    Attributes:
        transform: As declared; "statistic" of a statistic of ids.
        mean, deviation: The scale, 0 and 1 where the column is not standardised.
        missing_shares: Share of missing values in each split; None where it is unknown: a column without missing values in
            training has no indicator, so that those of other splits cannot be told from the mean that stands for them.
        minimum, quartiles, maximum: Of training's present values, as the model reads them; None where there is none.
            Quartiles are the lower ends of the bins of a histogram: below the value by at most 1 in 4,096 of its size.
        deciles: Label rates of training's present values.
        missing: Label rate of training's missing values.
    """

    name: str
    transform: str
    mean: float
    deviation: float
    missing_shares: dict[str, float | None]
    minimum: float | None
    quartiles: tuple[float, float, float] | None
    maximum: float | None
    deciles: list[Decile]
    missing: Rate


@dataclass(frozen=True)
class Inspection:
    """A whole prepared set. Rows in + rows added = rows out + rows quarantined."""

    path: str
    rows_in: int
    rows_added: int
    rows_out: int
    quarantined: int
    splits: dict[str, SplitReport]
    categorical: list[CategoricalReport]
    numeric: list[NumericReport]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)
