"""The arms of the comparison: what each declares, and what of it is tried on validation; all else is the same for all."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.compression.students import hashed
from recsys.config import ExperimentConfig, TeacherConfig, load_experiment

HASHED = {"features.encoding": "hash", "features.min_count": 1}
COUNTED = {"features.form": "fingerprint"}  # a small vocabulary for every arm that needs one
WIDTHS = [4, 8, 12, 16]
LONGER_TRIALS = (
    20  # trainings of the recipe: eight trials of the full table, three teachers, eight trials, a student
)
MIN_COUNTS = ["fit", 2, 3, 5, 10, 20]


@dataclass(frozen=True)
class Arm:
    """One kind of tables.

    Attributes:
        settings: Dotted keys of the experiment that differ from the full table's.
        tables: The section `tables`, without a budget.
        space: What is tried, beside the learning rate, decay and first values, which every arm tries.
        longer: Whether it has the trials of the whole recipe, and twice the epochs of other arms.
    """

    settings: dict[str, Any]
    tables: dict[str, Any]
    space: dict[str, list[Any]] = field(default_factory=dict)
    longer: bool = False


FULL = {  # fp32 rows, no budget
    "every-id": Arm({}, {"scheme": "full"}),
    "full": Arm(
        {}, {"scheme": "full"}, {"features.min_count": [1, 2, 3, 5, 10, 20], "tables.embedding_dim": WIDTHS}
    ),
    "every-id_longer": Arm({}, {"scheme": "full"}, longer=True),
    "every-id_fingerprints": Arm(COUNTED, {"scheme": "full"}),  # to serve in int8 and int4
}
RIVALS = {
    "unified": Arm(HASHED, {"scheme": "unified", "chunk_dim": 8}, {"tables.chunk_dim": [8, 4, 16]}),
    "hash": Arm(HASHED, {"scheme": "hash"}, {"tables.embedding_dim": WIDTHS}),
    "multi_hash": Arm(
        HASHED, {"scheme": "multi_hash"}, {"tables.num_hashes": [2, 3], "tables.embedding_dim": WIDTHS}
    ),
    "frequency_split": Arm(
        {"features.unknown": "hash", "features.min_count": 10} | COUNTED,
        {"scheme": "frequency_split"},
        {"features.min_count": [2, 3, 5, 10, 20, 50, 100, 200], "tables.embedding_dim": WIDTHS},
    ),
    "quotient_remainder": Arm(
        COUNTED,
        {"scheme": "quotient_remainder", "operation": "product"},
        {
            "features.min_count": [1, 2, 3, 5, 10, 20],
            "tables.operation": ["product", "concat", "sum"],
            "tables.embedding_dim": [8, 16],
        },
    ),
    "width_x_min_count": Arm(
        COUNTED, {"scheme": "full"}, {"features.min_count": MIN_COUNTS, "tables.embedding_dim": WIDTHS}
    ),
}
REFERENCES = ("every-id", "full")  # of which the better on validation has the teachers' settings
CONTROLS = {"unified_longer": dataclasses.replace(RIVALS["unified"], longer=True)}
CODED = "coded"  # with codes of k-means; its folders are those of a split
TWO_CHUNKS = "coded_2_chunks"  # with codes of two halves of the vectors
CLUSTERED = "clustered"  # that begin as a teacher whose rows are clustered, in two halves
RANDOM = "random_codes"
EVOLUTION = "evolution"  # over a learner's rows and widths, of each split


def experiment(
    base: ExperimentConfig,
    arm: Arm,
    name: str,
    budget: str | None,
    precision: str,
    teacher: TeacherConfig | None,
) -> ExperimentConfig:
    """Return the experiment of an arm; `base` is of the full table, with the space that every arm tries."""
    tables = {"embedding_dim": 16, "init_bound": base.tables.init_bound, **arm.tables}
    if precision != "fp32":
        tables["precision"] = precision
    space = base.model_dump(mode="json")["tuning"]["space"] | arm.space
    settings = {**arm.settings, "name": name, "tables": tables | {"budget": budget}, "tuning.space": space}
    if arm.longer:
        settings |= {"tuning.trials": LONGER_TRIALS, "training.epochs": 2 * base.training.epochs}
    if teacher is not None:
        settings["training.teacher"] = teacher.model_dump(mode="json", exclude_unset=True)
    return base.replace(settings, where=name)


def evolved(base: ExperimentConfig, file: Path, name: str, teacher: TeacherConfig | None) -> ExperimentConfig:
    """Return the experiment of compact tables that a search wrote, with the space that every arm tries."""
    found = load_experiment(file)
    settings: dict[str, Any] = {
        "name": name,
        "tuning": base.model_dump(mode="json", exclude_unset=True)["tuning"],
    }
    if teacher is not None:
        settings["training.teacher"] = teacher.model_dump(mode="json", exclude_unset=True)
    return found.replace(settings, where=name)


def coded(
    base: ExperimentConfig,
    name: str,
    budget: str,
    precision: str,
    folders: list[str],
    teacher: TeacherConfig | None,
) -> ExperimentConfig:
    """Return the experiment of coded tables whose codes lie in one of `folders`, which are tried."""
    arm = Arm({"features": hashed(base)}, {"scheme": "coded", "codes": folders[0]}, {"tables.codes": folders})
    return experiment(base, arm, name, budget, precision, teacher)
