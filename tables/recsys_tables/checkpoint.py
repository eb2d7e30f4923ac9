"""Checkpoints of sharded models: logical rows in safetensors files under a JSON manifest; nothing is unpickled.

    <folder>/manifest.json         versions, schemes, every tensor's shape and where its pieces lie, checksums;
                                   the folder gets its name when this is written
    <folder>/rank-<r>.safetensors  the pieces that rank r held

    table/<name>             [num_embeddings, embedding_dim]   weights of a physical table
    optimizer/<name>/<kind>  [num_embeddings] or as the table  its optimiser's state
    dense/<parameter>                                          everything else; rank 0 writes it

A piece says which rows and columns of the whole it is, so what any number of ranks wrote under any sharding,
any other reads: each rank reads the parts that overlap its own shards. One number a row, kept by column shards,
is read as the mean of the overlapping shards' numbers weighted by width: exact for the same column shards,
and otherwise a state that no unsharded training would have had.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext import HASH_VERSION
from recsys_tables.deep_hash import DeepHashEmbedding
from recsys_tables.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.scheme import describe, difference
from recsys_tables.sharding import local_shards, table_of

FORMAT_VERSION = 2

Result = TypeVar("Result")
_BLOCK = 1 << 20  # values read at a time: what is read, and its pages of the file, stay small beside a shard


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model, scheme or hash version."""


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
    """Copy what this rank holds, to go back to with `restore`."""
    return [Piece(p.name, p.first_row, p.first_column, p.columns, p.values.clone()) for p in pieces(model)]


def refresh(state: Sequence[Piece], model: DistributedModelParallel) -> None:
    """Copy what this rank holds now over a `snapshot` of the same sharded model: no third copy of the tables."""
    for saved, live in zip(state, pieces(model), strict=True):
        saved.values.copy_(live.values)


def restore(model: DistributedModelParallel, state: Sequence[Piece]) -> None:
    """Copy a `snapshot` of the same sharded model back. Raises CheckpointError when it is of another."""
    held = pieces(model)
    places = [[(p.name, p.where, p.values.shape) for p in side] for side in (held, state)]
    if places[0] != places[1]:
        raise CheckpointError("the snapshot was taken of another model, or of one sharded otherwise")
    with torch.no_grad():
        for live, saved in zip(held, state, strict=True):
            live.values.copy_(saved.values)


def save(
    folder: Path,
    model: DistributedModelParallel,
    about: Mapping[str, Any],
    state: Sequence[Piece] | None = None,
) -> None:
    """Write `model` (or a `snapshot` of it) with `about` (JSON-able) as `folder`, which must not exist yet.

    Every rank calls it. The folder is written under a temporary name first. Raises CheckpointError if it exists.
    """
    partial = folder.with_name(folder.name + ".tmp")

    def start() -> None:
        if folder.exists():
            raise CheckpointError(f"{folder}: exists already; save under another name")
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    _agree(start)
    held = list(pieces(model) if state is None else state)
    rank = dist.get_rank()
    if rank > 0:
        held = [piece for piece in held if not piece.name.startswith("dense/")]
    file = partial / f"rank-{rank}.safetensors"
    _agree(lambda: save_file({str(i): _to_write(piece) for i, piece in enumerate(held)}, file))
    mine = {
        "file": file.name,
        "blake2b": _digest(file),
        "pieces": [
            {
                "name": piece.name,
                "key": str(i),
                "shape": list(piece.values.shape),
                "dtype": str(piece.values.dtype),
                **piece.where,
            }
            for i, piece in enumerate(held)
        ],
    }
    files: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(files, mine)
    _agree(lambda: _finish(folder, partial, model, about, files) if rank == 0 else None)


def _finish(
    folder: Path, partial: Path, model: nn.Module, about: Mapping[str, Any], files: Sequence[Any]
) -> None:
    """Write the manifest, and give the folder its name."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "schemes": {field.feature: describe(field.scheme) for field in _fields(model)},
        "about": dict(about),
        "files": files,
    }
    text = json.dumps(manifest, indent=1)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    (partial / "manifest.json").write_text(json.dumps({"blake2b": digest, "manifest": text}))
    partial.replace(folder)


def _fields(model: nn.Module) -> list[Field]:
    """Of every engine of a model, those without tables too, in their order."""
    engines = [m for m in model.modules() if isinstance(m, EmbeddingEngine | DeepHashEmbedding)]
    return [field for engine in engines for field in engine.fields]


def _agree(work: Callable[[], Result]) -> Result:
    """Do `work` on every rank, and let all of them fail where one does: the others would wait for it.

    Raises the rank's own CheckpointError or OSError, or on the others a CheckpointError that quotes it.
    """
    failure: Exception | None = None
    try:
        result = work()
    except (CheckpointError, OSError, SafetensorError) as error:
        failure = error
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for rank, text in enumerate(said):
        if text is not None:
            raise CheckpointError(f"rank {rank}: {text}")
    return result


def load(folder: Path, model: DistributedModelParallel) -> "Checkpoint":
    """Open a checkpoint on every rank and `load_into` the model; where one rank cannot, none is changed."""
    checkpoint = _agree(lambda: Checkpoint(folder))
    checkpoint.load_into(model)
    return checkpoint


class Checkpoint:
    """A checkpoint folder, whose manifest and files were found whole.

    Raises CheckpointError naming the damaged or missing file, or the other version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _manifest(folder)
        for name, mine in (("format_version", FORMAT_VERSION), ("hash_version", HASH_VERSION)):
            if manifest.get(name) != mine:
                raise CheckpointError(
                    f"{folder}: {name} {manifest.get(name)}, but this program reads {mine}; train again"
                )
        self.about: dict[str, Any] = manifest["about"]
        self.schemes: dict[str, dict[str, Any]] = manifest["schemes"]
        self._pieces: dict[str, list[dict[str, Any]]] = {}
        for entry in manifest["files"]:
            file = folder / entry["file"]
            if _digest(file) != entry["blake2b"]:
                raise CheckpointError(f"{file}: damaged (its checksum is wrong); train again")
            for piece in entry["pieces"]:
                self._pieces.setdefault(piece["name"], []).append({**piece, "file": entry["file"]})

    def load_into(self, model: DistributedModelParallel) -> None:
        """Fill the shards of this rank, and the dense part, from whatever ranks and sharding wrote them.

        Every rank calls it. Tables may have grown since (`Scheme.grows`): rows that the checkpoint lacks keep their
        first values. A vocabulary must have grown at its end; one fitted anew numbers its ids otherwise, which
        cannot be seen here. Raises CheckpointError naming the scheme's field, tensor or shape that differs; the model is
        then as before, on every rank.
        """
        _agree(lambda: self._check(model))
        with torch.no_grad():
            for target in pieces(model):
                if target.values.ndim == 0 or target.name.startswith("dense/"):
                    target.values.copy_(self._read_dense(target.name))
                else:
                    self._read_rows(target)

    @property
    def names(self) -> list[str]:
        """Logical tensors: `table/…`, `optimizer/…`, `dense/…`."""
        return sorted(self._pieces)

    def read(self, name: str) -> Tensor:
        """Return one whole logical tensor."""
        if name.startswith("dense/"):
            return self._read_dense(name)
        values = torch.empty(self._shape(name), dtype=torch.float32)
        columns = max(part["first_column"] + part["columns"] for part in self._pieces[name])
        self._read_rows(Piece(name, 0, 0, columns, values))
        return values

    def tables(self) -> dict[str, np.ndarray]:
        """Whole weights of every physical table, by name."""
        return {
            name.removeprefix("table/"): self.read(name).numpy()
            for name in self.names
            if name.startswith("table/")
        }

    def _check(self, model: DistributedModelParallel) -> None:
        fields = {field.feature: field.scheme for field in _fields(model)}
        for feature in [*self.schemes, *fields]:
            if feature not in fields:
                raise CheckpointError(f"{self.folder}: feature {feature!r} is not in this model")
            if feature not in self.schemes:
                raise CheckpointError(f"{self.folder}: lacks feature {feature!r} of this model")
            if why := difference(self.schemes[feature], fields[feature]):
                raise CheckpointError(f"{self.folder}: written by another scheme: {why}")
        for was, now in zip(self.schemes, fields, strict=True):
            if was != now:  # what lies on top of the tables reads their vectors side by side
                raise CheckpointError(
                    f"{self.folder}: its features come in another order: {was!r} where this model has {now!r}"
                )
        targets = {piece.name: piece for piece in pieces(model)}
        dense = {name for name in self._pieces if name.startswith("dense/")}
        for name in sorted(dense ^ {name for name in targets if name.startswith("dense/")}):
            side = "the checkpoint lacks it" if name in targets else "the model has no such tensor"
            raise CheckpointError(f"{self.folder}: {name}: {side}; it was written by another model")
        for name in sorted(dense):
            saved, mine = self._shape(name), list(targets[name].values.shape)
            if saved != mine:
                raise CheckpointError(
                    f"{self.folder}: {name}: the checkpoint's shape is {saved}, the model's {mine}"
                )
        were = _states({name: len(self._shape(name)) for name in self._pieces})
        are = _states({name: target.values.ndim for name, target in targets.items()})
        for table in [name.removeprefix("table/") for name in targets if name.startswith("table/")]:
            if were.get(table) != are.get(table):
                raise CheckpointError(
                    f"{self.folder}: table {table!r}: written with another table optimiser, whose state is "
                    f"{were.get(table, 'none')}, and here {are.get(table, 'none')}"
                )

    def _shape(self, name: str) -> list[int]:
        """Of the whole logical tensor."""
        parts = self._pieces[name]
        if name.startswith("dense/"):
            return parts[0]["shape"]
        rows = max(part["first_row"] + part["shape"][0] for part in parts)
        if len(parts[0]["shape"]) == 1:
            return [rows]
        return [rows, max(part["first_column"] + part["columns"] for part in parts)]

    def _read_dense(self, name: str) -> Tensor:
        part = self._pieces[name][0]
        with self._open(part["file"]) as file:
            return file.get_tensor(part["key"])

    def _read_rows(self, target: Piece) -> None:
        """Fill a piece of a table or a state from every saved part that overlaps it."""
        per_row = target.values.ndim == 1
        weight = torch.zeros(len(target.values)) if per_row else None
        for part in self._pieces[target.name]:
            top = max(target.first_row, part["first_row"])
            bottom = min(target.first_row + len(target.values), part["first_row"] + part["shape"][0])
            left = max(target.first_column, part["first_column"])
            right = min(target.first_column + target.columns, part["first_column"] + part["columns"])
            if top >= bottom or left >= right:
                continue
            step = max(1, _BLOCK // part["columns"])
            for start in range(top, bottom, step):
                stop = min(start + step, bottom)
                rows = slice(start - part["first_row"], stop - part["first_row"])
                own = slice(start - target.first_row, stop - target.first_row)
                with self._open(part["file"]) as file:  # a closed file gives its mapped pages back
                    saved = file.get_slice(part["key"])
                    if weight is None:
                        columns = slice(left - part["first_column"], right - part["first_column"])
                        here = slice(left - target.first_column, right - target.first_column)
                        target.values[own, here] = saved[rows, columns].to(target.values.device)
                        continue
                    values = saved[rows].to(target.values.device)
                share = (right - left) / (weight[own] + (right - left))  # of a running weighted mean
                weight[own] += right - left
                share = share.to(target.values.device)
                before = target.values[own]
                target.values[own] = torch.where(share == 1, values, before + share * (values - before))

    def _open(self, name: str) -> Any:
        return safe_open(self.folder / name, framework="pt")


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    try:
        outer = json.loads(file.read_text())
        text = outer["manifest"]
        if outer["blake2b"] != hashlib.blake2b(text.encode(), digest_size=16).hexdigest():
            raise ValueError("its checksum is wrong")
        return json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no such checkpoint (no manifest.json)") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged ({error}); train again") from None


def _to_write(piece: Piece) -> Tensor:
    """On the CPU; parameters that share memory (tied weights) are written each for itself."""
    values = piece.values.contiguous().cpu()
    return values.clone() if piece.name.startswith("dense/") else values


def _states(dimensions: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Optimiser states of each table by kind, from the dimensions of logical tensors."""
    found: dict[str, dict[str, str]] = {}
    for name, dims in dimensions.items():
        of, _, kind = name.rpartition("/")
        if of.startswith("optimizer/"):
            text = "a number a row" if dims == 1 else "a number a weight"
            found.setdefault(of.removeprefix("optimizer/"), {})[kind] = text
    return found


def _digest(file: Path) -> str:
    """BLAKE2b of a file's bytes; safetensors itself has no checksum."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{file}: missing or unreadable ({error.strerror}); train again") from None
