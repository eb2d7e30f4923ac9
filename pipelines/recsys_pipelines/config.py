"""Declared data and features: strict, frozen, and free of torch."""

from typing import Literal

from pydantic import Field, model_validator

from recsys_pipelines.declared_feature import ColumnName
from recsys_pipelines.feature_config import (
    BucketsConfig,
    CategoricalConfig,
    CrossConfig,
    DateConfig,
    FeatureConfig,
    NumericConfig,
    PrefixesConfig,
    SequenceConfig,
    StatisticConfig,
    TimeFormat,
    TokensConfig,
)
from recsys_pipelines.sources.generator_config import GeneratorConfig
from recsys_pipelines.sources.location import Location
from recsys_pipelines.strict import FeatureName, Seed, Strict

__all__ = [
    "BucketsConfig",
    "CategoricalConfig",
    "CrossConfig",
    "DataConfig",
    "DateConfig",
    "FeatureConfig",
    "FeatureName",
    "LabelConfig",
    "NumericConfig",
    "PrefixesConfig",
    "Seed",
    "SequenceConfig",
    "SplitConfig",
    "StatisticConfig",
    "Strict",
    "TimeConfig",
    "TokensConfig",
]


class LabelConfig(Strict):
    """The label column; with `threshold`, a row is positive when its value is >= threshold."""

    column: str = "label"
    threshold: float | None = None  # unless given, labels are 0 and 1


class TimeConfig(Strict):
    """The column that orders rows, and how its text or numbers are to be read, as `DateConfig.format` says."""

    column: ColumnName
    format: TimeFormat


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
    path: Location | None = None  # a file, a folder or a URL
    label: LabelConfig = LabelConfig()  # what is to be predicted
    # column of sample weights of the training loss; evaluation counts every row once
    weight: str | None = None
    user: str | None = None  # clusters of tests and groups of GAUC; a row without a user is a user of its own
    # column that orders rows: whole numbers, times, dates, or ISO 8601 as text
    time: str | TimeConfig | None = None
    truth: str | None = None  # column with the true click probability, where a generator knows it
    split: SplitConfig = SplitConfig()  # of the rows into training, validation and test
    quarantine_limit: float = Field(0.01, ge=0, le=1)  # share of unreadable rows that stops the run
    generator: GeneratorConfig | None = None  # of `source: generated`

    @property
    def time_column(self) -> str | None:
        """The column that orders rows."""
        return self.time.column if isinstance(self.time, TimeConfig) else self.time

    @model_validator(mode="after")
    def _path_or_generator(self) -> "DataConfig":
        if (self.source == "generated") != (self.generator is not None):
            raise ValueError("`generator` belongs to `source: generated`, and is required there")
        if (self.source == "generated") == (self.path is not None):
            raise ValueError("`path` is required for every source but `generated`, which writes its own")
        if self.split.by == "time" and self.time is None:
            raise ValueError("`split.by: time` needs `time`, the column to split by")
        return self
