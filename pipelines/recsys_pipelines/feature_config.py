"""Declared features, one class for each kind: strict, frozen, and free of torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_pipelines.sources.location import Location
from recsys_pipelines.strict import FeatureName, Strict, feature_name

TimeFormat = Annotated[str, Field(pattern=r"^(seconds|milliseconds|iso|.*%[a-zA-Z].*)$")]
ColumnName = Annotated[str, Field(min_length=1)]  # of the source, whatever it is called


NO_KEEP = (
    "`keep` chooses from the vocabulary that training gives, and makes every other id unknown: it goes "
    "with neither a fixed `vocabulary`, `encoding: hash` nor `unknown: hash`"
)


def _statistic_name(name: str) -> str:
    """Return the name of a statistic: what its columns begin with (`<name>:ctr`), and `:statistic`."""
    return f"{feature_name(name.removesuffix(':statistic'))}:statistic"


class _Feature(Strict):
    """Keys of every kind: `name` or `names`, and `column` or `columns` for what is read, by default what is named."""

    made: ClassVar[str] = ""  # what follows a column in the name of a feature that has none of its own
    implied: ClassVar[str] = "names"  # of `names` and `columns` the one a dump leaves out where it follows

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        out = cls._spelled_out(dict(raw))
        for one, many in (("name", "names"), ("column", "columns")):
            if one in out and many in out:
                raise ValueError(f"give `{one}` or `{many}`, not both")
            if one in out and one not in cls.model_fields:
                out[many] = (out.pop(one),)
            elif many in out and many not in cls.model_fields:
                values = out.pop(many)
                if not isinstance(values, list | tuple) or len(values) != 1:
                    raise ValueError(f"`{many}`: this kind takes one {one} (value {values!r})")
                out[one] = values[0]
        return cls._completed(out)

    @classmethod
    def _spelled_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the keys without a spelling that only this kind has."""
        return raw

    @classmethod
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Give `names` and `columns` each from the other, where one is missing."""
        if "names" not in cls.model_fields:  # of a kind that makes one feature
            return raw
        names, columns = raw.get("names"), raw.get("columns")
        if isinstance(names, list | tuple) and columns is None:
            raw["columns"] = tuple(names)
        elif isinstance(columns, list | tuple) and names is None:
            raw["names"] = tuple(f"{column}{cls.made}" for column in columns)
        elif (
            isinstance(names, list | tuple)
            and isinstance(columns, list | tuple)
            and len(names) != len(columns)
        ):
            raise ValueError(
                f"`names` are {len(names)} and `columns` {len(columns)}: give each column the name of its feature"
            )
        return raw

    @model_serializer(mode="wrap")
    def _without_implied(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        out: dict[str, Any] = handler(self)
        given = {key: value for key, value in self.__dict__.items() if key != self.implied}
        if self.implied in out and self._completed(given).get(self.implied) == getattr(self, self.implied):
            del out[self.implied]
        return out


class _EncodedConfig(_Feature):
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

    implied: ClassVar[str] = "columns"

    kind: Literal["categorical"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
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
    columns: tuple[ColumnName, ...] = Field(min_length=2)

    @property
    def names(self) -> tuple[str, ...]:
        """The feature's."""
        return (self.name,)


class TokensConfig(_KeptConfig):
    """Words of text columns as lists of ids: runs of letters and digits, lower case unless `lowercase: false`.

    `ngrams: 2` adds pairs of neighbouring words, 3 also triples. `max_tokens` cuts the list.
    """

    made: ClassVar[str] = "_tokens"

    kind: Literal["tokens"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    lowercase: bool = True
    ngrams: int = Field(1, ge=1, le=5)
    max_tokens: int = Field(64, ge=1)
    pooling: Literal["sum", "mean"] = "mean"


class PrefixesConfig(_KeptConfig):
    """Prefixes of text columns as lists of ids: the first n characters for each n of `lengths`.

    A text shorter than n has no prefix of that length, so related ids ("sports/football", "sports/tennis"; zip
    codes; addresses) share what they begin with.
    """

    made: ClassVar[str] = "_prefixes"

    kind: Literal["prefixes"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    pooling: Literal["sum", "mean"] = "sum"


class DateConfig(_Feature):
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
    def _spelled_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """`name` begins the name of each part; `names` are those of the parts."""
        if isinstance(raw.get("name"), str) and "names" not in raw:
            stem = raw.pop("name")
            raw["names"] = _of_parts(stem, raw.get("parts"))
            if "columns" not in raw:
                raw.setdefault("column", stem)
        return raw

    @classmethod
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        names, parts = raw.get("names"), raw.get("parts")
        if names is None:
            raw["names"] = _of_parts(raw.get("column"), parts)
        elif isinstance(names, list | tuple) and isinstance(parts, list | tuple) and len(names) != len(parts):
            raise ValueError(
                f"`names` are {len(names)} and `parts` {len(parts)}: give each part a name, or one `name`"
            )
        return raw


class BucketsConfig(_Feature):
    """Numbers as categories: cut at the given `boundaries`, or at `quantiles` of training, so many buckets.

    A number x is in bucket i when boundaries[i - 1] <= x < boundaries[i]; a missing one has a category of its own.
    """

    categorical: ClassVar[bool] = True

    made: ClassVar[str] = "_bucket"

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


class SequenceConfig(_EncodedConfig):
    """A user's last `length` values of `column` before the row's own time, oldest first: needs data.user and data.time.

    Rows of one instant do not see each other, and no row sees itself or what came later, whatever its split.
    `only_positive` keeps the events with a positive label. `like` names a categorical feature of the same column, whose
    vocabulary then serves both.
    """

    kind: Literal["sequence"]
    name: FeatureName
    column: ColumnName
    length: int = Field(50, ge=1, le=1000)
    separator: str | None = Field(None, min_length=1)  # cuts the text of a request, as in CSV, into a list
    only_positive: bool = False
    like: str | None = None
    pooling: Literal["sum", "mean"] = "mean"

    @property
    def names(self) -> tuple[str, ...]:
        """The feature's."""
        return (self.name,)

    @classmethod
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return {"column": raw["name"], **raw} if "name" in raw else raw

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


class NumericConfig(_Feature):
    """Columns of numbers that reach the model as numbers; missing becomes the training mean, and a
    second 0/1 feature `<name>:missing` says so where the training part has missing values.

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
    standardise: bool = True

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        low, high = self.clip
        if low is not None and high is not None and low >= high:
            raise ValueError("`clip` is [low, high] with low < high; null for no bound")
        return self


class StatisticConfig(_Feature):
    """What training says of an id, as numbers: `<column>:ctr`, its smoothed click rate (clicks + smoothing · rate) /
    (rows + smoothing) (Micci-Barreca 2001), and `<column>:count`, ln(1 + rows).

    Training rows are cut into `folds` by a hash of their number, and each gets the statistics of the other folds, so
    that no row sees its own label; all other rows get those of all training rows.
    """

    categorical: ClassVar[bool] = False

    made: ClassVar[str] = ":statistic"

    kind: Literal["statistic"]
    names: tuple[Annotated[str, AfterValidator(_statistic_name)], ...] = Field(min_length=1)
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    of: tuple[Literal["ctr", "count"], ...] = Field(("ctr", "count"), min_length=1)
    folds: int = Field(5, ge=2, le=64)
    smoothing: float = Field(20.0, gt=0)


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
