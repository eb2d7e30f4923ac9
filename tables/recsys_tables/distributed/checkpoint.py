"""Checkpoints of sharded models: logical rows in safetensors files under a JSON manifest; nothing is unpickled.

    <folder>/manifest.json         versions, schemes, every tensor's shape and where its pieces lie, checksums;
                                   the folder gets its name when this is written
    <folder>/rank-<r>.safetensors  the pieces that rank r held: all of their rows, or those that changed since
                                   the full checkpoint beside it that the manifest names as `base`

    table/<name>             [num_embeddings, embedding_dim]   weights of a physical table
    optimizer/<name>/<kind>  [num_embeddings] or as the table  its optimiser's state
    dense/<parameter>                                          everything else; rank 0 writes it
    extra/<name>                                               what the caller adds; rank 0 writes it

A piece says which rows and columns of the whole it is, so what any number of ranks wrote under any sharding,
any other reads: each rank reads the parts that overlap its own shards. One number a row, kept by column shards,
is read as the mean of the overlapping shards' numbers weighted by width: exact for the same column shards,
and otherwise a state that no unsharded training would have had.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext.files import file_digest
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.manifest import (
    MANIFEST,
    CheckpointError,
    SavedPiece,
    covers,
    read_checkpoint_manifest,
    whole_shape,
)
from recsys_tables.distributed.pieces import Piece, fields_of, pieces
from recsys_tables.scheme import difference

_PRECISIONS = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}
_BLOCK = 1 << 20  # values read at a time: what is read, and its pages of the file, stay small beside a shard


def load(folder: str | Path, model: DistributedModelParallel) -> "Checkpoint":
    """Open a checkpoint on every rank and `load_into` the model; where one rank cannot, none is changed."""
    checkpoint = agree(lambda: Checkpoint(folder))
    checkpoint.load_into(model)
    return checkpoint


class Checkpoint:
    """A checkpoint folder whose manifest and files are whole.

    Raises CheckpointError naming the damaged or missing file, OtherVersion naming that.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        manifest = read_checkpoint_manifest(folder)
        self.about: dict[str, Any] = manifest.about
        self.base = None if manifest.base is None else Checkpoint(folder.with_name(manifest.base))
        self.schemes: dict[str, dict[str, Any]] = manifest.schemes
        self.bytes = sum(file.bytes for file in manifest.files)  # of its own files, not of its base's
        self._parts: dict[str, list[tuple[str, SavedPiece]]] = {}  # of each logical tensor: file and piece
        for saved in manifest.files:
            _check_file(folder / saved.file, saved.xxh64)
            _check_pieces(folder / saved.file, saved.pieces)
            for piece in saved.pieces:
                self._parts.setdefault(piece.name, []).append((saved.file, piece))
        for name, parts in self._parts.items():
            if not covers([piece for _, piece in parts], manifest.shapes.get(name)):
                raise CheckpointError(
                    f"{folder / MANIFEST}: damaged: the pieces of {name} do not make up the whole; train again"
                )
        if missing := sorted(manifest.shapes.keys() - self._parts.keys()):
            raise CheckpointError(
                f"{folder / MANIFEST}: damaged: it has no piece of {missing[0]}; train again"
            )

    def load_into(self, model: DistributedModelParallel) -> None:
        """Fill the shards of this rank, and the dense part, from whatever ranks and sharding wrote them.

        Every rank calls it. Tables may have grown since (`Scheme.grows`): rows that the checkpoint lacks keep their
        first values. A vocabulary must have grown at its end; one fitted anew numbers its ids otherwise, which
        cannot be seen here. Raises CheckpointError naming the scheme's field, tensor or shape that differs; the model is
        then as before, on every rank.
        """
        agree(lambda: self._check(model))
        with torch.no_grad():
            for target in pieces(model):
                if target.values.ndim == 0 or target.name.startswith("dense/"):
                    target.values.copy_(self._read_dense(target.name))
                else:
                    self._read_rows(target)

    def extra(self) -> dict[str, Tensor]:
        """Return what the caller of `save` added, by name."""
        with self._open("rank-0.safetensors") as file:
            names = [key for key in file.keys() if key.startswith("extra/")]  # noqa: SIM118 (no mapping)
            return {name.removeprefix("extra/"): file.get_tensor(name) for name in names}

    @property
    def names(self) -> list[str]:
        """Return the names of the logical tensors: `table/…`, `optimizer/…`, `dense/…`."""
        return sorted(self._parts)

    def read(self, name: str) -> Tensor:
        """Return one whole logical tensor; weights of tables are float32, whatever their precision was."""
        if name.startswith("dense/"):
            return self._read_dense(name)
        values = torch.empty(self._shape(name), dtype=torch.float32)
        columns = max(piece.first_column + piece.columns for _, piece in self._parts[name])
        self._read_rows(Piece(name, 0, 0, columns, values))
        return values

    def tables(self) -> dict[str, np.ndarray]:
        """Return the whole weights of every physical table, by name."""
        return {
            name.removeprefix("table/"): self.read(name).numpy()
            for name in self.names
            if name.startswith("table/")
        }

    def _check(self, model: DistributedModelParallel) -> None:
        """Raise CheckpointError unless the model has the checkpoint's schemes, network and states of optimisers."""
        fields = {field.feature: field.scheme for field in fields_of(model)}
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
        dense = {name for name in self._parts if name.startswith("dense/")}
        for name in sorted(dense ^ {name for name in targets if name.startswith("dense/")}):
            side = "the checkpoint lacks it" if name in targets else "the model has no such tensor"
            raise CheckpointError(f"{self.folder}: {name}: {side}; it was written by another model")
        for name in sorted(dense):
            saved, shape = self._shape(name), list(targets[name].values.shape)
            if saved != shape:
                raise CheckpointError(
                    f"{self.folder}: {name}: the checkpoint's shape is {saved}, the model's {shape}"
                )
        self._check_precision(targets)
        saved_states = _states({name: len(self._shape(name)) for name in self._parts})
        states = _states({name: target.values.ndim for name, target in targets.items()})
        for table in [name.removeprefix("table/") for name in targets if name.startswith("table/")]:
            if saved_states.get(table) != states.get(table):
                raise CheckpointError(
                    f"{self.folder}: table {table!r}: written with another table optimiser, whose state is "
                    f"{saved_states.get(table, 'none')}, and here {states.get(table, 'none')}"
                )

    def _check_precision(self, targets: Mapping[str, Piece]) -> None:
        """Raise CheckpointError where rows were trained in another precision."""
        for name in self._parts.keys() & targets.keys():
            saved, here = (
                _PRECISIONS.get(dtype, dtype)
                for dtype in (self._parts[name][0][1].dtype, str(targets[name].values.dtype))
            )
            if name.startswith("table/") and saved != here:
                raise CheckpointError(
                    f"{self.folder}: table {name.removeprefix('table/')!r}: written with rows in {saved}, and here they "
                    f"are in {here}: make `tables.precision` the same"
                )

    def _shape(self, name: str) -> list[int]:
        """Return the shape of a whole logical tensor."""
        return whole_shape([piece for _, piece in self._parts[name]])

    def _read_dense(self, name: str) -> Tensor:
        file_name, part = self._parts[name][0]
        with self._open(file_name) as file:
            return file.get_tensor(part.key)

    def _read_rows(self, target: Piece) -> None:
        """Fill a piece of a table or a state from every saved part that overlaps it."""
        if self.base is not None and any(part.rows is not None for _, part in self._parts[target.name]):
            self.base._read_rows(target)
        per_row = target.values.ndim == 1
        weight = torch.zeros(len(target.values)) if per_row else None
        for file_name, part in self._parts[target.name]:
            top = max(target.first_row, part.first_row)
            bottom = min(target.first_row + len(target.values), part.first_row + part.shape[0])
            left = max(target.first_column, part.first_column)
            right = min(target.first_column + target.columns, part.first_column + part.columns)
            if top >= bottom or left >= right:
                continue
            if part.rows is not None:
                self._read_changed(target, file_name, part, slice(top, bottom), slice(left, right))
                continue
            step = max(1, _BLOCK // part.columns)
            for start in range(top, bottom, step):
                stop = min(start + step, bottom)
                rows = slice(start - part.first_row, stop - part.first_row)
                to_rows = slice(start - target.first_row, stop - target.first_row)
                with self._open(file_name) as file:  # a closed file gives its mapped pages back
                    saved = file.get_slice(part.key)
                    if weight is None:
                        columns = slice(left - part.first_column, right - part.first_column)
                        to_columns = slice(left - target.first_column, right - target.first_column)
                        target.values[to_rows, to_columns] = saved[rows, columns].to(target.values.device)
                        continue
                    values = saved[rows].to(target.values.device)
                share = (right - left) / (weight[to_rows] + (right - left))  # of a running weighted mean
                weight[to_rows] += right - left
                share = share.to(target.values.device)
                before = target.values[to_rows]
                target.values[to_rows] = torch.where(share == 1, values, before + share * (values - before))

    def _read_changed(
        self, target: Piece, file_name: str, part: SavedPiece, rows: slice, columns: slice
    ) -> None:
        """Overwrite the rows that changed since the base, of those that a part and the target have in common."""
        with self._open(file_name) as file:
            numbers = file.get_tensor(part.rows) + part.first_row
            in_target = (numbers >= rows.start) & (numbers < rows.stop)
            values = file.get_tensor(part.key)[in_target]
        to_rows = (numbers[in_target] - target.first_row).to(target.values.device)
        if target.values.ndim == 1:
            target.values[to_rows] = values.to(target.values.device)
            return
        values = values[:, columns.start - part.first_column : columns.stop - part.first_column]
        to_columns = slice(columns.start - target.first_column, columns.stop - target.first_column)
        target.values[to_rows, to_columns] = values.to(target.values)

    def _open(self, name: str) -> Any:
        return safe_open(self.folder / name, framework="pt")


def _states(dimensions: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Describe the optimiser's states of each table by kind, from the dimensions of logical tensors."""
    states: dict[str, dict[str, str]] = {}
    for name, dims in dimensions.items():
        of, _, kind = name.rpartition("/")
        if of.startswith("optimizer/"):
            text = "a number a row" if dims == 1 else "a number a weight"
            states.setdefault(of.removeprefix("optimizer/"), {})[kind] = text
    return states


def _check_file(file: Path, xxh64: str) -> None:
    """Raise CheckpointError unless a file is whole; safetensors itself has no checksum."""
    try:
        digest = file_digest(file)
    except OSError as error:
        raise CheckpointError(f"{file}: missing or unreadable ({error.strerror}); train again") from None
    if digest != xxh64:
        raise CheckpointError(f"{file}: damaged (its checksum is wrong); train again")


def _check_pieces(file: Path, pieces: Sequence[SavedPiece]) -> None:
    """Raise CheckpointError unless a file holds its pieces in the shapes that the manifest gives them."""
    try:
        with safe_open(file, framework="pt") as saved:
            for piece in pieces:
                shape = saved.get_slice(piece.key).get_shape()
                rows = shape[:1] if piece.rows is None else saved.get_slice(piece.rows).get_shape()
                wide = len(shape) != 2 or piece.name.startswith("dense/") or shape[1] == piece.columns
                expected = piece.shape if piece.rows is None else [*rows, *piece.shape[1:]]
                if shape != expected or not wide:
                    raise CheckpointError(
                        f"{file}: damaged: {piece.name} is {shape} where the manifest says {expected}; train again"
                    )
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged ({error}); train again") from None
