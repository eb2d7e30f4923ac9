"""The section `training.teacher` names what a model learns from besides labels: runs of an experiment, or their logits."""

from pathlib import Path

from pydantic import Field, model_validator

from recsys.config.mistakes import ConfigError, near_file
from recsys_cython_ext.files import file_digest
from recsys_pipelines.config import Strict

FIRST_SEED = 2000  # of a teacher's runs, whose seeds rise from here: no student should use them
RUNS = 3


class TeacherConfig(Strict):
    """The teachers of a model, for distillation (Hinton et al. 2015, "Distilling the knowledge in a neural network").

    The loss of a training row sees (1 - weight) · label + weight · sigmoid(mean logit of the teachers), as
    `recsys.training.labels.soft_labelled` says. The teachers are runs of `experiment`, which are trained where they are
    not there, or what a file of `predictions` holds.
    """

    experiment: Path | None = None  # unless given this one, with full tables and vocabularies
    runs: int | None = Field(None, ge=1, le=1000)  # of the experiment: RUNS unless given
    predictions: Path | None = None  # a file with the columns row_id and logit
    xxh64: str | None = None  # of that file, which is refused where it is another one
    weight: float = Field(1.0, ge=0, le=1)  # of the teachers; the rest is the label's

    @model_validator(mode="after")
    def _runs_or_predictions(self) -> "TeacherConfig":
        if self.predictions is not None and (self.experiment is not None or self.runs is not None):
            raise ValueError("`predictions` are there already: they go with neither `experiment` nor `runs`")
        if self.predictions is None and self.xxh64 is not None:
            raise ValueError("`xxh64` is of a file of `predictions`, and none is named")
        return self

    @property
    def seeds(self) -> range:
        """Return the seeds of the runs."""
        return range(FIRST_SEED, FIRST_SEED + (self.runs or RUNS))

    def check(self, where: str) -> None:
        """Raise ConfigError unless the file that is named is there."""
        for key, file in (("experiment", self.experiment), ("predictions", self.predictions)):
            if file is not None and not file.is_file():
                raise ConfigError(f"{where}: training.teacher.{key}: {file} is no file{near_file(file)}")

    def file_digest(self) -> str:
        """Return the digest of the predictions.

        Raises ConfigError where they cannot be read, or where runs have yet to make them.
        """
        if self.predictions is None:
            raise ConfigError(
                "training.teacher: what its runs predict is not known before they are trained: take the experiment that "
                "recsys.training.train.with_teacher returns"
            )
        if self.xxh64 is not None:
            return self.xxh64
        try:
            return file_digest(self.predictions)
        except OSError as error:
            raise ConfigError(
                f"training.teacher: {self.predictions}: cannot be read ({error.strerror})"
            ) from None
