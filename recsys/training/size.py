"""A run records the bytes of its tables, which budgets are of, and those of the network beside them."""

from dataclasses import dataclass

from recsys.config import ExperimentConfig
from recsys.config.models import targets_of
from recsys.planning import plan_of
from recsys_pipelines.features import Features

# fp32 numbers that an optimiser keeps of each parameter
STATES = {"adam": 2, "adamw": 2, "adagrad": 1, "sgd": 0}


@dataclass(frozen=True)
class NetworkBytes:
    """Bytes of the network above the tables: weights and buffers, and in training its optimiser's state."""

    parameters: int
    optimizer: int


def network_bytes(config: ExperimentConfig, features: Features) -> NetworkBytes:
    """Count the network that is trained above the tables. It is in no budget.

    Raises BudgetError where the tables do not fit theirs, and ValueError for features that the model cannot use.
    """
    histories = targets_of(config.model)
    pooled = [feature.name for feature in features.categorical if feature.name not in histories]
    width = plan_of(config, features).schemes[0].embedding_dim
    numbers = len(features.numeric_columns)
    config.model.check_fields(numbers, pooled)
    size = config.model.size(numbers, len(pooled), width)
    states = STATES[config.training.dense_optimizer]
    return NetworkBytes(4 * size.trained + size.buffer_bytes, 4 * states * size.trained)


def bytes_of(config: ExperimentConfig, features: Features) -> dict[str, int]:
    """Return the bytes of the tables by kind, of the full table, and of the network, which no total holds.

    Raises BudgetError where the tables do not fit their budget.
    """
    plan = plan_of(config, features)
    network = network_bytes(config, features)
    return plan.bytes.to_dict() | {
        "full_table": plan.full_bytes,
        "network": network.parameters,
        "network_optimizer": network.optimizer,
    }
