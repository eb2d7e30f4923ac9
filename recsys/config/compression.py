"""The section `compression` says how `recsys compress` makes the tables of an experiment small."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from recsys_pipelines.config import Seed, Strict
from recsys_tables.scheme import Precision

LEARNER = {  # of `recsys compress`, unless `compression.learner` says otherwise
    "tables.scheme": "opt_embed",
    "tables.alpha": 3e-4,
    "training.table_weight_decay": 1e-3,
    "training.monitor": "auc",
}


class StudentsConfig(Strict):
    """How small tables are trained that learn from teachers: all that `recsys compress --into` makes but `compact`.

    Every arm of the comparison, the full table too, has as many validation `trials`; among those of coded tables are codes
    of ids with each of `min_counts` impressions.
    """

    teachers: int = Field(3, ge=1, le=100)  # runs of the experiment, unless it has a training.teacher
    trials: int = Field(8, ge=1, le=100_000)
    epochs: int = Field(2, ge=1, le=100)  # times the experiment's, at most: soft labels are overfitted later
    precision: Precision = "fp16"  # of the rows; their optimiser's state is fp32
    max_rows: int = Field(4096, ge=2, lt=2**31)  # of a coded table; what a budget has beyond them is left
    chunks: int | None = Field(
        None, ge=1, le=32
    )  # of a coded vector; 1, and 2 from a million ids on, unless given
    min_counts: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 3, 10), min_length=1)
    seed: Seed = 0  # of codes


class CompressionConfig(Strict):
    """How `recsys compress` makes tables small.

    `students` belong to `--into coded`, `unified` and `auto`. The rest belongs to `--into compact`: the learner's settings,
    dotted keys -> values that make the experiment a learner's, such as `tables.scheme: opt_embed`, and the evolution over
    what it leaves; from `population` on the names are `evolution.Settings`'.
    """

    students: StudentsConfig = StudentsConfig()  # of all but `--into compact`
    precision: Precision = "fp32"  # of the rows of compact tables
    form: Literal["exact", "fingerprint"] = "exact"  # of the vocabularies of the ids that they keep

    learner: dict[str, Any] = Field(default_factory=lambda: dict(LEARNER))
    weights: Literal["initial", "inherited"] = "initial"  # that compact tables and their network start from
    min_count: int = Field(5, ge=1)  # impressions of an id that may keep a row
    validation_rows: int = Field(50_000, ge=1)  # at most so many judge a genome
    population: int = Field(20, ge=1, le=1_000_000)  # genomes of a generation that go on
    mutations: int = Field(10, ge=0, le=1_000_000)  # new ones of a generation
    crossovers: int = Field(10, ge=0, le=1_000_000)  # new ones of a generation
    generations: int = Field(30, ge=0, le=1_000_000)
    mutation_rate: float = Field(0.1, gt=0, le=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _same_experiment(self) -> "CompressionConfig":
        fixed = ("tables.embedding_dim", "training.seed", "training.start")
        for key in self.learner:
            if not key.startswith(("tables.", "training.")) or key in fixed:
                raise ValueError(
                    f"learner: {key!r} cannot differ from the experiment's; keys are of tables or training, and none of "
                    f"{', '.join(fixed)}"
                )
        return self
