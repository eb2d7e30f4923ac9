"""Declared features, one class for each kind: strict, frozen, and free of torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from recsys_pipelines.declared_feature import (
    NO_KEEP,
    ColumnName,
    DeclaredFeature,
    EncodedFeature,
    KeptFeature,
)
from recsys_pipelines.sources.location import Location
from recsys_pipelines.strict import FeatureName, feature_name

TimeFormat = Annotated[str, Field(pattern=r"^(seconds|milliseconds|iso|.*%[a-zA-Z].*)$")]


def _statistic_name(name: str) -> str:
    """Return the name of a statistic: what its columns begin with (`<name>:ctr`), and `:statistic`."""
    return f"{feature_name(name.removesuffix(':statistic'))}:statistic"


class CategoricalConfig(KeptFeature):
    """Columns of ids; with `multivalued`, of lists of ids, which may have `weights`, a column of lists as long.

    `vocabulary` names a text file with one value a line, whose codes are then fixed. `buckets: squared_log` first
    turns an integer column into Criteo's buckets: floor(ln(x)^2) for x > 2, else int(x).
    """

    implied: ClassVar[str] = "columns"

    kind: Literal["categorical"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    vocabulary: Location | None = None  # a text file with one value a line
    buckets: Literal["squared_log"] | None = None
    multivalued: bool = False  # whether a row holds a list
    separator: str | None = Field(None, min_length=1)  # splits a text column into a list
    weights: str | None = None  # column of the weights of the elements
    pooling: Literal["sum", "mean"] = "sum"  # of the vectors of a list

    @classmethod
    @override
    def _spelled_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        if isinstance(raw.get("vocabulary"), dict):  # as `features.vocabulary` in `set`
            raise ValueError(
                "`vocabulary` names a file of values: write what it maps, such as `form: fingerprint`, as keys of a feature"
            )
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.separator is not None and not self.multivalued:
            raise ValueError("`separator` makes a list: set `multivalued: true`")
        if self.buckets is not None and self.multivalued:
            raise ValueError("`buckets` takes a single-valued integer column")
        if self.weights is not None and (not self.multivalued or len(self.names) > 1):
            raise ValueError(
                "`weights` belongs to one feature of lists: set `multivalued: true` and give one name"
            )
        if self.vocabulary is not None and (self.encoding == "hash" or self.min_count > 1 or self.buckets):
            raise ValueError(
                "a fixed `vocabulary` goes with neither `encoding: hash`, `min_count` nor `buckets`"
            )
        if self.keep is not None and self.vocabulary is not None:
            raise ValueError(NO_KEEP)
        return self


class CrossConfig(KeptFeature):
    """One id for each combination of the values of two or more columns; their order matters, for it salts them."""

    kind: Literal["cross"]
    name: FeatureName
    columns: tuple[ColumnName, ...] = Field(min_length=2)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the one feature."""
        return (self.name,)


class TokensConfig(KeptFeature):
    """Words of text columns as lists of ids: runs of letters and digits, lower case unless `lowercase: false`.

    `ngrams: 2` adds pairs of neighbouring words, 3 also triples. `max_tokens` cuts the list.
    """

    suffix: ClassVar[str] = "_tokens"

    kind: Literal["tokens"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    lowercase: bool = True  # whether A is a
    ngrams: int = Field(1, ge=1, le=5)  # words of the longest run that is one id
    max_tokens: int = Field(64, ge=1)  # of a text; the rest is cut
    pooling: Literal["sum", "mean"] = "mean"  # of the vectors of a list


class PrefixesConfig(KeptFeature):
    """Prefixes of text columns as lists of ids: the first n characters for each n of `lengths`.

    A text shorter than n has no prefix of that length, so related ids ("sports/football", "sports/tennis"; zip
    codes; addresses) share what they begin with.
    """

    suffix: ClassVar[str] = "_prefixes"

    kind: Literal["prefixes"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    pooling: Literal["sum", "mean"] = "sum"  # of the vectors of a list


class DateConfig(DeclaredFeature):
    """Parts of a time (UTC) as categories, features `<column>_<part>`.

    `format` says what numbers and text mean: seconds or milliseconds since 1970, a strptime pattern such as
    "%y%m%d%H", or `iso`, as in 2017-11-07 09:30:38; columns of times and dates need none.
    """

    categorical: ClassVar[bool] = True

    kind: Literal["date"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    column: ColumnName
    parts: tuple[Literal["hour", "weekday", "weekend", "day", "month", "year"], ...] = Field(min_length=1)
    format: TimeFormat = "seconds"

    @classmethod
    @override
    def _spelled_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        # `name` begins the name of each part; `names` are those of the parts.
        if isinstance(raw.get("name"), str) and "names" not in raw:
            stem = raw.pop("name")
            raw["names"] = _of_parts(stem, raw.get("parts"))
            if "columns" not in raw:
                raw.setdefault("column", stem)
        return raw

    @classmethod
    @override
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        names, parts = raw.get("names"), raw.get("parts")
        if names is None:
            raw["names"] = _of_parts(raw.get("column"), parts)
        elif isinstance(names, list | tuple) and isinstance(parts, list | tuple) and len(names) != len(parts):
            raise ValueError(
                f"`names` are {len(names)} and `parts` {len(parts)}: give each part a name, or one `name`"
            )
        return raw


class BucketsConfig(DeclaredFeature):
    """Numbers as categories: cut at the given `boundaries`, or at `quantiles` of training, so many buckets.

    A number x is in bucket i when boundaries[i - 1] <= x < boundaries[i]; a missing one has a category of its own.
    """

    categorical: ClassVar[bool] = True

    suffix: ClassVar[str] = "_bucket"

    kind: Literal["buckets"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    boundaries: tuple[float, ...] | None = Field(None, min_length=1)
    quantiles: int | None = Field(None, ge=2, le=10_000)

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> Self:
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("give either `boundaries` or `quantiles`")
        if self.boundaries is not None and list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("`boundaries` must rise")
        return self


class SequenceConfig(EncodedFeature):
    """A user's last `length` values of `column` before the row's own time, oldest first: needs data.user and data.time.

    Rows of one instant do not see each other, and no row sees itself or what came later, whatever its split.
    `only_positive` keeps the events with a positive label. `like` names a categorical feature of the same column, whose
    vocabulary then serves both.
    """

    kind: Literal["sequence"]
    name: FeatureName
    column: ColumnName
    length: int = Field(50, ge=1, le=1000)  # events at most, the last ones
    separator: str | None = Field(None, min_length=1)  # cuts the text of a request, as in CSV, into a list
    only_positive: bool = False  # whether events need label 1
    like: str | None = None
    pooling: Literal["sum", "mean"] = "mean"  # of the vectors of a list

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the one feature."""
        return (self.name,)

    @classmethod
    @override
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return {"column": raw["name"], **raw} if "name" in raw else raw

    @model_validator(mode="after")
    def _like_decides(self) -> Self:
        settings = (self.encoding, self.form, self.min_count, self.unknown)
        if self.like is not None and settings != ("vocabulary", "exact", 1, "code"):
            raise ValueError(
                "`like` takes the other feature's encoding: leave out encoding, form, min_count and unknown"
            )
        return self


class NumericConfig(DeclaredFeature):
    """Columns of numbers that reach the model as numbers.

    Missing becomes the training mean, and a second 0/1 feature `<name>:missing` says so where the training part has
    missing values.

    `clip` first bounds the numbers from below and above (null: no bound). `log` is sign(x)·ln(1 + |x|), `squared_log`
    is floor(ln(x)^2) for x > 2, else int(x) (Criteo's winners of 2014). `standardise` then subtracts the training
    mean and divides by the training deviation.
    """

    categorical: ClassVar[bool] = False
    implied: ClassVar[str] = "columns"

    kind: Literal["numeric"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    clip: tuple[float | None, float | None] = (None, None)
    transform: Literal["none", "log", "squared_log"] = "none"
    standardise: bool = True  # to mean 0 and deviation 1 in training

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        low, high = self.clip
        if low is not None and high is not None and low >= high:
            raise ValueError("`clip` is [low, high] with low < high; null for no bound")
        return self


class StatisticConfig(DeclaredFeature):
    """What training says of an id, as numbers.

    `<column>:ctr` is its smoothed click rate (clicks + smoothing · rate) / (rows + smoothing) (Micci-Barreca 2001), and
    `<column>:count` is ln(1 + rows).

    Training rows are cut into `folds` by a hash of their number, and each gets the statistics of the other folds, so
    that no row sees its own label; all other rows get those of all training rows.
    """

    categorical: ClassVar[bool] = False

    suffix: ClassVar[str] = ":statistic"

    kind: Literal["statistic"]
    names: tuple[Annotated[str, AfterValidator(_statistic_name)], ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    of: tuple[Literal["ctr", "count"], ...] = Field(("ctr", "count"), min_length=1)
    folds: int = Field(5, ge=2, le=64)  # of the training rows
    smoothing: float = Field(20.0, gt=0)  # rows' worth of the mean click rate


def _of_parts(stem: Any, parts: Any) -> tuple[str, ...]:
    return tuple(f"{stem}_{part}" for part in parts) if isinstance(parts, list | tuple) else ()


FeatureConfig = Annotated[
    CategoricalConfig
    | CrossConfig
    | TokensConfig
    | PrefixesConfig
    | DateConfig
    | BucketsConfig
    | SequenceConfig
    | NumericConfig
    | StatisticConfig,
    Field(discriminator="kind"),
]
