"""What a rank holds of a sharded model, by logical name: the parts that checkpoints are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torchrec.distributed import DistributedModelParallel

from recsys_tables.sharding import local_shards, table_of

Place = tuple[str, int, int]  # of a shard: its table, first row, first column


@dataclass(frozen=True)
class Piece:
    """Part of a logical tensor: its values, and its first row and column there.

    `columns` is the width of the shard that a state of one number a row belongs to; the tensor's own otherwise.
    """

    name: str
    first_row: int
    first_column: int
    columns: int
    values: Tensor

    @property
    def place(self) -> Place:
        """Which shard of a table this belongs to: its weights and all of their optimiser's states."""
        kind, _, rest = self.name.partition("/")
        return rest.rpartition("/")[0] if kind == "optimizer" else rest, self.first_row, self.first_column

    @property
    def where(self) -> dict[str, Any]:
        """JSON-able, without the values."""
        return {"first_row": self.first_row, "first_column": self.first_column, "columns": self.columns}


def pieces(model: DistributedModelParallel) -> list[Piece]:
    """Everything this rank holds of a model, by logical name; the tensors are the live ones."""
    found = []
    for shard in local_shards(model):
        columns = shard.weight.shape[1]
        held = {f"table/{shard.table}": shard.weight} | {
            f"optimizer/{shard.table}/{kind}": state for kind, state in shard.states.items()
        }
        for name, values in held.items():
            found.append(Piece(name, shard.first_row, shard.first_column, columns, values))
    for name, value in model.state_dict().items():
        if table_of(name) is None:
            found.append(Piece(f"dense/{name}", 0, 0, 0, value.detach()))
    return found


def snapshot(model: DistributedModelParallel) -> list[Piece]:
    """Copy what this rank holds to the CPU: a state that training no longer changes."""
    return [replace(piece, values=piece.values.to("cpu", copy=True)) for piece in pieces(model)]


def refresh(state: Sequence[Piece], model: DistributedModelParallel) -> None:
    """Copy what this rank holds now over a `snapshot` of the same sharded model: its memory is used again."""
    for saved, live in zip(state, pieces(model), strict=True):
        saved.values.copy_(live.values)
