"""The pieces of a sharded model that a rank holds, by logical name: checkpoints are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext.files import is_sealed, seal_of
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.sharding import local_shards, table_of
from recsys_tables.engine.deep_hash import DeepHashEmbedding
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field

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
        """Return the shard that this belongs to, as its weights and all of their optimiser's states do."""
        kind, _, rest = self.name.partition("/")
        return rest.rpartition("/")[0] if kind == "optimizer" else rest, self.first_row, self.first_column

    @property
    def where(self) -> dict[str, Any]:
        """Return first row and column and width, JSON-able."""
        return {"first_row": self.first_row, "first_column": self.first_column, "columns": self.columns}


def fields_of(model: nn.Module) -> list[Field]:
    """Return the fields of every engine of a model, those without tables too, in their order."""
    engines = [m for m in model.modules() if isinstance(m, EmbeddingEngine | DeepHashEmbedding)]
    return [field for engine in engines for field in engine.fields]


def pieces(model: DistributedModelParallel) -> list[Piece]:
    """Return everything this rank holds of a model, by logical name; the tensors are the live ones."""
    parts = []
    for shard in local_shards(model):
        columns = shard.weight.shape[1]
        tensors = {f"table/{shard.table}": shard.weight} | {
            f"optimizer/{shard.table}/{kind}": state for kind, state in shard.states.items()
        }
        for name, values in tensors.items():
            parts.append(Piece(name, shard.first_row, shard.first_column, columns, values))
    for name, value in model.state_dict().items():
        if table_of(name) is None:
            parts.append(Piece(f"dense/{name}", 0, 0, 0, value.detach()))
    return parts


def snapshot(model: DistributedModelParallel) -> list[Piece]:
    """Copy what this rank holds to the CPU: a state that training no longer changes."""
    return [replace(piece, values=piece.values.to("cpu", copy=True)) for piece in pieces(model)]


def refresh(state: Sequence[Piece], model: DistributedModelParallel) -> None:
    """Copy what this rank holds now over a `snapshot` of the same sharded model: its memory is used again."""
    for saved, live in zip(state, pieces(model), strict=True):
        saved.values.copy_(live.values)


def load_start(file: Path, model: DistributedModelParallel) -> None:
    """Take inherited weights from a safetensors file: fill what this rank holds of its tensors. Every rank calls it.

    The file holds whole tensors, `table/<name>` [num_embeddings, embedding_dim] and `dense/<parameter>`, by the names
    of `pieces`. What it lacks keeps its values, and so do the optimisers' states.

    Raises ValueError naming the file, and the tensor that the model lacks or has in another shape; the model is then
    as before, on every rank.
    """
    shapes = agree(lambda: _shapes(file, model))
    with torch.no_grad(), safe_open(file, framework="pt") as saved:
        for piece in pieces(model):
            if piece.name not in shapes:
                continue
            if piece.name.startswith("dense/"):
                piece.values.copy_(saved.get_tensor(piece.name))
                continue
            rows, columns = piece.values.shape
            whole = saved.get_slice(piece.name)
            piece.values.copy_(
                whole[
                    piece.first_row : piece.first_row + rows,
                    piece.first_column : piece.first_column + columns,
                ]
            )


def _shapes(file: Path, model: DistributedModelParallel) -> Mapping[str, list[int]]:
    """Return the shape of every tensor of the file. Raises ValueError unless the model has them all."""
    tables = engine_of(model).tables
    of_model = {f"table/{table.name}": [table.num_embeddings, table.embedding_dim] for table in tables}
    of_model |= {
        piece.name: list(piece.values.shape) for piece in pieces(model) if piece.name.startswith("dense/")
    }
    if seal_of(file).exists() and not is_sealed(file):
        raise ValueError(f"{file}: damaged: its checksum is wrong; write it again")
    try:
        with safe_open(file, framework="pt") as saved:
            of_file = {name: saved.get_slice(name).get_shape() for name in saved.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: no safetensors file to start from ({error})") from None
    for name, shape in of_file.items():
        if name not in of_model:
            known = f"it has {', '.join(sorted(of_model))}"
            if name.startswith("optimizer/") or name.isdigit():  # a checkpoint's file numbers what it holds
                known = "to go on from a run, with its optimisers' states, write `start: {run: FOLDER}`"
            raise ValueError(f"{file}: {name} {shape}: the model has no such tensor; {known}")
        if shape != of_model[name]:
            raise ValueError(f"{file}: {name}: its shape is {shape}, the model's {of_model[name]}")
    return of_file
