"""Bytes that must be resident, by kind: the measure every comparison of schemes uses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from recsys_tables.scheme import Scheme, unique_tables

OPTIMIZER_BYTES_PER_ROW = 4  # rowwise Adagrad keeps one fp32 number a row


@dataclass(frozen=True)
class ResidentBytes:
    """Bytes of the tables of a model and of what is needed to address them."""

    parameters: int  # fp32 weights, padding included
    optimizer: int  # state of the table optimiser; training only
    vocabulary: int  # id -> code tables; a hashed feature has none

    @property
    def total(self) -> int:
        """Resident in training: everything."""
        return self.parameters + self.optimizer + self.vocabulary

    @property
    def serving(self) -> int:
        """Resident in serving: everything but the optimiser's state."""
        return self.parameters + self.vocabulary

    def to_dict(self) -> dict[str, int]:
        """By kind, with both totals."""
        return {**asdict(self), "total": self.total, "serving": self.serving}


def resident_bytes(schemes: Sequence[Scheme], vocabulary_bytes: int) -> ResidentBytes:
    """Count the schemes' physical tables, shared ones once, and `vocabulary_bytes` of id -> code tables."""
    tables = unique_tables(schemes)
    return ResidentBytes(
        parameters=sum(table.parameter_bytes for table in tables),
        optimizer=OPTIMIZER_BYTES_PER_ROW * sum(table.num_embeddings for table in tables),
        vocabulary=vocabulary_bytes,
    )
