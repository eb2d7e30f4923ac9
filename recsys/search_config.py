"""What is searched over: settings of an experiment (`recsys tune`, `compare`), and small tables (`recsys search`)."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from recsys_pipelines.config import Strict

LEARNER = {  # of `recsys search`, unless `shrink.learner` says otherwise
    "tables.scheme": "opt_embed",
    "tables.alpha": 3e-4,
    "training.table_weight_decay": 1e-3,
    "training.monitor": "auc",
}


class Range(Strict):
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm."""

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
        """The ends, and a number between them that is not whole."""
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


class SearchConfig(Strict):
    """Validation trials before the seeds: `trials` settings drawn from `space`, dotted keys -> values or a range.

    The file's own settings are always the first trial. Settings whose tables do not fit the budget are
    not drawn. The setting that does best on validation by `training.monitor` goes on to the seeds.
    Trials train with seed `training_seed`, which no final run should use.
    """

    trials: int = Field(1, ge=1)
    space: dict[str, Choices] = Field(default_factory=dict)
    seed: int = Field(0, ge=0)
    training_seed: int = Field(1000, ge=0)


class ShrinkConfig(Strict):
    """How `recsys search` makes tables small: settings of the learner, and the evolution over what it leaves.

    `learner`: dotted keys -> values that make the experiment a learner's, such as `tables.scheme: opt_embed`.
    From `population` on the names are `evolution.Settings`'.
    """

    learner: dict[str, Any] = Field(default_factory=lambda: dict(LEARNER))
    weights: Literal["initial", "inherited"] = "initial"  # that compact tables and their network start from
    min_count: int = Field(5, ge=1)  # impressions of an id that may keep a row
    validation_rows: int = Field(50_000, ge=1)  # at most so many judge a genome
    population: int = Field(20, ge=1)
    mutations: int = Field(10, ge=0)
    crossovers: int = Field(10, ge=0)
    generations: int = Field(30, ge=0)
    mutation_rate: float = Field(0.1, gt=0, le=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _same_experiment(self) -> "ShrinkConfig":
        fixed = ("tables.embedding_dim", "training.seed", "training.start")
        for key in self.learner:
            if not key.startswith(("tables.", "training.")) or key in fixed:
                raise ValueError(
                    f"learner: {key!r} cannot differ from the experiment's; keys are of tables or training, and none of "
                    f"{', '.join(fixed)}"
                )
        return self
