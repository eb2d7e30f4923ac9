"""Where the shards of tables lie, and the plan that needs no planner: one rank holds every table whole."""

from collections.abc import Iterable
from dataclasses import dataclass

from recsys_tables.bytes import OptimizerName, table_bytes
from recsys_tables.config import Sharding
from recsys_tables.distributed.device import machine_memory
from recsys_tables.scheme import Table

SMALL = 1 << 30  # bytes of tables, with their optimiser's state, that any GPU has room for


@dataclass(frozen=True)
class Placement:
    """One shard of a sharding plan."""

    table: str
    sharding: str
    rank: int
    first_row: int
    rows: int
    first_column: int
    columns: int

    @property
    def num_weights(self) -> int:
        """Return the number of weights."""
        return self.rows * self.columns


def whole_on_one_rank(
    tables: Iterable[Table], sharding: Sharding, optimizer: OptimizerName
) -> list[Placement] | None:
    """Return every table whole on rank 0, as `plan_sharding` would for one rank, but without torch.

    None where the planner might refuse, which it then says itself: tables that may not fit, and columns.
    """
    tables = tuple(tables)
    if sharding == "column_wise":
        return None
    if table_bytes(tables, optimizer).total > min(SMALL, machine_memory() // 2):
        return None
    kind = "table_wise" if sharding == "auto" else sharding
    whole = [
        Placement(table.name, kind, 0, 0, table.num_embeddings, 0, table.embedding_dim) for table in tables
    ]
    return sorted(whole, key=lambda placement: placement.table)
