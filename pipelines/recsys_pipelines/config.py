"""Declared data and features: strict, frozen, and free of torch."""

from typing import Annotated, Literal

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
    if name.endswith(":missing"):
        raise ValueError(f"{name!r} could be the missing indicator of a numeric feature; rename the column")
    return name


FeatureName = Annotated[str, AfterValidator(_feature_name)]


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


class CategoricalConfig(Strict):
    """Columns of ids. `vocabulary` numbers the ids seen in training; `hash` keeps the 64-bit id itself.

    An id outside the vocabulary gets the one code of unknown ids, or with `unknown: hash` stays a 64-bit id of its
    own, below 0 where no code is (for tables that give rare ids hashed rows).

    `buckets: squared_log` first turns an integer column into Criteo's buckets: floor(ln(x)^2) for
    x > 2, else int(x).
    """

    kind: Literal["categorical"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    encoding: Literal["vocabulary", "hash"] = "vocabulary"
    min_count: int = Field(1, ge=1)
    unknown: Literal["code", "hash"] = "code"
    buckets: Literal["squared_log"] | None = None
    multivalued: bool = False
    separator: str | None = Field(None, min_length=1)  # splits a text column into a list
    pooling: Literal["sum", "mean"] = "sum"

    @model_validator(mode="after")
    def _consistent(self) -> "CategoricalConfig":
        if self.encoding == "hash" and self.min_count > 1:
            raise ValueError("`min_count` needs a vocabulary to count in: set `encoding: vocabulary`")
        if self.encoding == "hash" and self.unknown == "hash":
            raise ValueError(
                "`unknown: hash` needs a vocabulary to be unknown to: set `encoding: vocabulary`"
            )
        if self.separator is not None and not self.multivalued:
            raise ValueError("`separator` makes a list: set `multivalued: true`")
        if self.buckets is not None and self.multivalued:
            raise ValueError("`buckets` takes a single-valued integer column")
        return self


class NumericConfig(Strict):
    """Columns of numbers that reach the model as numbers; missing becomes the training mean, and a
    second 0/1 feature `<name>:missing` says so where the training part has missing values.

    `log` is sign(x)·ln(1 + |x|). `standardise` then subtracts the training mean and divides by the
    training deviation.
    """

    kind: Literal["numeric"]
    names: tuple[FeatureName, ...] = Field(min_length=1)
    transform: Literal["none", "log"] = "none"
    standardise: bool = True


FeatureConfig = Annotated[CategoricalConfig | NumericConfig, Field(discriminator="kind")]
