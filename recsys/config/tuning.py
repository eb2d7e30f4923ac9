"""The section `tuning` says which settings of an experiment `recsys tune` and `recsys compare` try on validation."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from recsys_pipelines.config import Seed, Strict

MIN_COUNT, FIT = "features.min_count", "fit"  # the value of a setting that is not drawn, but computed


class Range(Strict):
    """A range of numbers from `low` to `high`, which are drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("must rise, and from above 0 where it is log")
        return self

    @property
    def examples(self) -> tuple[float, ...]:
        """Return the ends, and a number between them that is not whole."""
        return self.low, self.low + (self.high - self.low) / math.e, self.high


def _choices(value: Any) -> Any:
    try:
        if isinstance(value, dict):
            return Range.model_validate(value)
    except ValidationError:
        value = None
    if not value or not isinstance(value, Range | list | tuple):
        raise ValueError(
            "Input should be a list of values, or a range such as {low: 0.01, high: 1, log: true} with low < high, "
            "and low > 0 where it is log"
        )
    return value


Choices = Annotated[Range | tuple[Any, ...], BeforeValidator(_choices)]


class TuningConfig(Strict):
    """How settings are tried on validation before the seeds are trained.

    `trials` settings are drawn from `space`, which maps dotted keys to values or a range.

    The file's own settings are always the first trial. Settings whose tables do not fit the budget are
    not drawn. The setting that does best on validation by `training.monitor` goes on to the seeds.
    Trials train with seed `training_seed`, which no final run should use.

    Among the values of `features.min_count`, `fit` is computed from the others of a draw: the smallest minimum count whose
    full tables fit the budget, 1 where there is none. Tables of other schemes take up a budget by themselves.
    """

    trials: int = Field(1, ge=1, le=100_000)  # of each arm; the file's own settings are the first
    space: dict[str, Choices] = Field(default_factory=dict)  # dotted keys, and values or a range of each
    seed: Seed = 0  # of the draws
    training_seed: Seed = 1000  # of the trials' trainings
