"""Declared data and features: strict, frozen, and free of torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recsys_pipelines.sources.generated import GeneratorConfig
from recsys_pipelines.sources.location import Location


def _feature_name(name: str) -> str:
    if name == "row_id" or name.startswith("@"):
        raise ValueError(
            f"{name!r} is a column of prepared rows (row_id, @label, …); rename the column in the data"
        )
    if not name or "." in name:
        raise ValueError(f"{name!r} cannot name a torch module: no name is empty or holds a '.'")
    if ":" in name:
        raise ValueError(
            f"{name!r} holds a ':', which marks columns that belong to a feature (:missing); rename the column"
        )
    return name


FeatureName = Annotated[str, AfterValidator(_feature_name)]


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's generator and TPE's take no more


class Strict(BaseModel):
    """An unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LabelConfig(Strict):
    """The label column; with `threshold`, a row is positive when its value is >= threshold."""

    column: str = "label"
    threshold: float | None = None


class SplitConfig(Strict):
    """Shares of the rows for training, validation and test.

    `order` cuts the file in reading order, `time` cuts at quantiles of `data.time` (rows of one
    instant stay together), `random` draws each row by a hash of (seed, row id).
    """

    by: Literal["order", "time", "random"] = "order"
    train: float = Field(0.8, gt=0, lt=1)
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _shares_add_up(self) -> "SplitConfig":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self


class DataConfig(Strict):
    """Where the rows come from and what they mean."""

    source: Literal[
        "criteo",
        "avazu",
        "criteo_1tb",
        "criteo_x4",
        "criteo_x1",
        "taobao_ad",
        "taobao_behavior",
        "kdd12",
        "open_bandit",
        "movielens_1m",
        "movielens_csv",
        "amazon",
        "kuairec",
        "ngcf",
        "recbole",
        "table",
        "generated",
    ]
    path: Location | None = None
    label: LabelConfig = LabelConfig()
    weight: str | None = (
        None  # column of sample weights of the training loss; evaluation counts every row once
    )
    user: str | None = None  # clusters of tests and groups of GAUC; a row without a user is a user of its own
    time: str | None = None  # column of integers (epoch seconds, YYMMDDHH, ...) that orders rows
    truth: str | None = None  # column with the true click probability, where a generator knows it
    split: SplitConfig = SplitConfig()
    quarantine_limit: float = Field(0.01, ge=0, le=1)  # share of unreadable rows that stops the run
    generator: GeneratorConfig | None = None

    @model_validator(mode="after")
    def _path_or_generator(self) -> "DataConfig":
        if (self.source == "generated") != (self.generator is not None):
            raise ValueError("`generator` belongs to `source: generated`, and is required there")
        if (self.source == "generated") == (self.path is not None):
            raise ValueError("`path` is required for every source but `generated`, which writes its own")
        if self.split.by == "time" and self.time is None:
            raise ValueError("`split.by: time` needs `time`, the column to split by")
        return self


NO_KEEP = (
    "`keep` chooses from the vocabulary that training gives, and makes every other id unknown: it goes "
    "with neither a fixed `vocabulary`, `encoding: hash` nor `unknown: hash`"
)


class _EncodedConfig(Strict):
    """How the 64-bit ids of a feature reach the model. `vocabulary` numbers the ids seen in training; `hash` keeps
    the id itself.

    An id outside the vocabulary (new, or seen fewer than `min_count` times) gets the one code of unknown ids, or
    with `unknown: hash` stays a 64-bit id of its own, below 0 where no code is (for tables that give rare ids
    hashed rows).
    """

    categorical: ClassVar[bool] = True

    encoding: Literal["vocabulary", "hash"] = "vocabulary"
    min_count: int = Field(1, ge=1)
    unknown: Literal["code", "hash"] = "code"

    @model_validator(mode="after")
    def _encoding_agrees(self) -> Self:
        if self.encoding == "hash" and self.min_count > 1:
            raise ValueError("`min_count` needs a vocabulary to count in: set `encoding: vocabulary`")
        if self.encoding == "hash" and self.unknown == "hash":
            raise ValueError(
                "`unknown: hash` needs a vocabulary to be unknown to: set `encoding: vocabulary`"
            )
        return self


class _KeptConfig(_EncodedConfig):
    """Ids of which some alone may have a code.

    `keep` names a folder that says which (`features.kept`): the vocabulary that training gives then has codes only for
    those of its 64-bit ids that the folder lists, and every other id is unknown.
    """

    keep: Location | None = None

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.keep is not None and (self.encoding, self.unknown) != ("vocabulary", "code"):
            raise ValueError(NO_KEEP)
        return self


class CategoricalConfig(_KeptConfig):
    """Columns of ids; with `multivalued`, of lists of ids, which may have `weights`, a column of lists as long.

    `vocabulary` names a text file with one value a line, whose codes are then fixed. `buckets: squared_log` first
    turns an integer column into Criteo's buckets: floor(ln(x)^2) for x > 2, else int(x).
    """

    kind: Literal["categorical"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    vocabulary: Location | None = None
    buckets: Literal["squared_log"] | None = None
    multivalued: bool = False
    separator: str | None = Field(None, min_length=1)  # splits a text column into a list
    weights: str | None = None  # column of the weights of the elements
    pooling: Literal["sum", "mean"] = "sum"

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


class CrossConfig(_KeptConfig):
    """One id for each combination of the values of two or more columns; their order matters, for it salts them."""

    kind: Literal["cross"]
    name: FeatureName
    columns: tuple[str, ...] = Field(min_length=2)

    @property
    def names(self) -> tuple[str, ...]:
        """The feature's."""
        return (self.name,)


class TokensConfig(_KeptConfig):
    """Words of text columns as lists of ids: runs of letters and digits, lower case unless `lowercase: false`.

    `ngrams: 2` adds pairs of neighbouring words, 3 also triples. `max_tokens` cuts the list.
    """

    kind: Literal["tokens"]
    columns: tuple[FeatureName, ...] = Field(min_length=1)
    lowercase: bool = True
    ngrams: int = Field(1, ge=1, le=5)
    max_tokens: int = Field(64, ge=1)
    pooling: Literal["sum", "mean"] = "mean"

    @property
    def names(self) -> tuple[str, ...]:
        """The features', `<column>_tokens`."""
        return tuple(f"{column}_tokens" for column in self.columns)


class PrefixesConfig(_KeptConfig):
    """Prefixes of text columns as lists of ids: the first n characters for each n of `lengths`.

    A text shorter than n has no prefix of that length, so related ids ("sports/football", "sports/tennis"; zip
    codes; addresses) share what they begin with.
    """

    kind: Literal["prefixes"]
    columns: tuple[FeatureName, ...] = Field(min_length=1)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    pooling: Literal["sum", "mean"] = "sum"

    @property
    def names(self) -> tuple[str, ...]:
        """The features', `<column>_prefixes`."""
        return tuple(f"{column}_prefixes" for column in self.columns)


class DateConfig(Strict):
    """Parts of a time (UTC) as categories, features `<column>_<part>`.

    `format` says what numbers and text mean: seconds or milliseconds since 1970, or a strptime pattern such as
    "%y%m%d%H"; columns of times and dates need none.
    """

    categorical: ClassVar[bool] = True

    kind: Literal["date"]
    column: FeatureName
    parts: tuple[Literal["hour", "weekday", "weekend", "day", "month", "year"], ...] = Field(min_length=1)
    format: str = Field("seconds", pattern=r"^(seconds|milliseconds|.*%[a-zA-Z].*)$")

    @property
    def names(self) -> tuple[str, ...]:
        """The features'."""
        return tuple(f"{self.column}_{part}" for part in self.parts)


class BucketsConfig(Strict):
    """Numbers as categories: cut at the given `boundaries`, or at `quantiles` of training, so many buckets.

    A number x is in bucket i when boundaries[i - 1] <= x < boundaries[i]; a missing one has a category of its own.
    """

    categorical: ClassVar[bool] = True

    kind: Literal["buckets"]
    columns: tuple[FeatureName, ...] = Field(min_length=1)
    boundaries: tuple[float, ...] | None = Field(None, min_length=1)
    quantiles: int | None = Field(None, ge=2, le=10_000)

    @property
    def names(self) -> tuple[str, ...]:
        """The features', `<column>_bucket`."""
        return tuple(f"{column}_bucket" for column in self.columns)

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> Self:
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("give either `boundaries` or `quantiles`")
        if self.boundaries is not None and list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("`boundaries` must rise")
        return self


class SequenceConfig(_EncodedConfig):
    """A user's last `length` values of `column` before the row's own time, oldest first: needs data.user and data.time.

    Rows of one instant do not see each other, and no row sees itself or what came later, whatever its split.
    `only_positive` keeps the events with a positive label. `like` names a categorical feature of the same column, whose
    vocabulary then serves both.
    """

    kind: Literal["sequence"]
    name: FeatureName
    column: str
    length: int = Field(50, ge=1, le=1000)
    separator: str | None = Field(None, min_length=1)  # cuts the text of a request, as in CSV, into a list
    only_positive: bool = False
    like: str | None = None
    pooling: Literal["sum", "mean"] = "mean"

    @property
    def names(self) -> tuple[str, ...]:
        """The feature's."""
        return (self.name,)

    @model_validator(mode="after")
    def _like_decides(self) -> Self:
        if self.like is not None and (self.encoding, self.min_count, self.unknown) != (
            "vocabulary",
            1,
            "code",
        ):
            raise ValueError(
                "`like` takes the other feature's encoding: leave out encoding, min_count and unknown"
            )
        return self


class NumericConfig(Strict):
    """Columns of numbers that reach the model as numbers; missing becomes the training mean, and a
    second 0/1 feature `<name>:missing` says so where the training part has missing values.

    `clip` first bounds the numbers from below and above (null: no bound). `log` is sign(x)·ln(1 + |x|), `squared_log`
    is floor(ln(x)^2) for x > 2, else int(x) (Criteo's winners of 2014). `standardise` then subtracts the training
    mean and divides by the training deviation.
    """

    categorical: ClassVar[bool] = False

    kind: Literal["numeric"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    clip: tuple[float | None, float | None] = (None, None)
    transform: Literal["none", "log", "squared_log"] = "none"
    standardise: bool = True

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        low, high = self.clip
        if low is not None and high is not None and low >= high:
            raise ValueError("`clip` is [low, high] with low < high; null for no bound")
        return self


class StatisticConfig(Strict):
    """What training says of an id, as numbers: `<column>:ctr`, its smoothed click rate (clicks + smoothing · rate) /
    (rows + smoothing) (Micci-Barreca 2001), and `<column>:count`, ln(1 + rows).

    Training rows are cut into `folds` by a hash of their number, and each gets the statistics of the other folds, so
    that no row sees its own label; all other rows get those of all training rows.
    """

    categorical: ClassVar[bool] = False

    kind: Literal["statistic"]
    columns: tuple[FeatureName, ...] = Field(min_length=1)
    of: tuple[Literal["ctr", "count"], ...] = Field(("ctr", "count"), min_length=1)
    folds: int = Field(5, ge=2, le=64)
    smoothing: float = Field(20.0, gt=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The features', `<column>:statistic`."""
        return tuple(f"{column}:statistic" for column in self.columns)


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
