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

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext import HASH_VERSION
from recsys_tables.agreement import agree
from recsys_tables.changes import Baseline
from recsys_tables.deep_hash import DeepHashEmbedding
from recsys_tables.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.pieces import Piece, pieces
from recsys_tables.scheme import describe, difference

FORMAT_VERSION = 3

_BLOCK = 1 << 20  # values read at a time: what is read, and its pages of the file, stay small beside a shard


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model, scheme or hash version."""


class OtherVersion(CheckpointError):
    """A checkpoint may be whole, but another version of this program wrote it."""


def save(
    folder: Path,
    model: DistributedModelParallel,
    about: Mapping[str, Any],
    state: Sequence[Piece] | None = None,
    *,
    extra: Mapping[str, Tensor] | None = None,
    since: Baseline | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write `model` (or a `snapshot` of it) with `about` (JSON-able) as `folder`, which must not exist yet.

    Every rank calls it. The folder is written under a temporary name first.

    Args:
        extra: tensors that all ranks hold alike, such as a dense optimiser's state; `Checkpoint.extra` returns them.
        since: of a shard, only rows that changed since the full checkpoint it remembers, where these are smaller;
            that one must stay beside this. A checkpoint without such shards is remembered in its place.
        group: ranks' messages go over this group, so that another thread than training's can save.

    Raises CheckpointError if the folder exists, and OSError, naming file and free bytes, where it cannot be written;
    nothing is left then.
    """
    partial = folder.with_name(folder.name + ".tmp")

    def start() -> None:
        if folder.exists():
            raise CheckpointError(f"{folder}: exists already; save under another name")
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    agree(start, group)
    try:
        mine = agree(lambda: _write_rank(partial, list(state or pieces(model)), extra or {}, since), group)
        files: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(files, mine, group)
        base = since.name if since is not None and any(_is_partial(file) for file in files) else None
        agree(
            lambda: _finish(folder, partial, model, about, files, base) if dist.get_rank() == 0 else None,
            group,
        )
    except BaseException:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if since is not None and base is None:
        since.remember(folder.name)


def _write_rank(
    partial: Path, held: Sequence[Piece], extra: Mapping[str, Tensor], since: Baseline | None
) -> dict[str, Any]:
    """Write this rank's file, and return what the manifest says of it."""
    rank = dist.get_rank()
    changed = {} if since is None else since.changed_rows(held)
    tensors: dict[str, Tensor] = {}
    entries = []
    for i, piece in enumerate(piece for piece in held if rank == 0 or not piece.name.startswith("dense/")):
        values, key = piece.values, str(i)
        entry: dict[str, Any] = {
            "name": piece.name,
            "key": key,
            "shape": list(values.shape),
            "dtype": str(values.dtype),
        }
        if (rows := changed.get(piece.place)) is not None:
            values = values[rows]
            entry["rows"] = "rows/{}/{}/{}".format(*piece.place)
            tensors[entry["rows"]] = rows
        tensors[key] = _to_write(values, tied=piece.name.startswith("dense/"))
        entries.append(entry | piece.where)
    if rank == 0:
        tensors |= {f"extra/{name}": values.detach().cpu().clone() for name, values in extra.items()}
    file = partial / f"rank-{rank}.safetensors"
    _write(file, sum(values.nbytes for values in tensors.values()), lambda: save_file(tensors, file))
    return {"file": file.name, "bytes": file.stat().st_size, "blake2b": _digest(file), "pieces": entries}


def _write(file: Path, size: int, write: Callable[[], object]) -> None:
    """Do `write`. Raises OSError with the file's name and the room there is; that of safetensors has neither."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        file.unlink(missing_ok=True)
        free = shutil.disk_usage(file.parent).free
        raise OSError(
            f"{file}: {size:,} bytes cannot be written where {free:,} are free ({error}); make room and start again"
        ) from error


def _is_partial(file: Mapping[str, Any]) -> bool:
    return any("rows" in piece for piece in file["pieces"])


def _finish(
    folder: Path,
    partial: Path,
    model: nn.Module,
    about: Mapping[str, Any],
    files: Sequence[Any],
    base: str | None,
) -> None:
    """Write the manifest, and give the folder its name."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "schemes": {field.feature: describe(field.scheme) for field in _fields(model)},
        "about": dict(about),
        "base": base,
        "files": files,
    }
    text = json.dumps(manifest, indent=1)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    text, file = json.dumps({"blake2b": digest, "manifest": text}), partial / "manifest.json"
    _write(file, len(text), lambda: file.write_text(text))
    partial.replace(folder)


def _fields(model: nn.Module) -> list[Field]:
    """Of every engine of a model, those without tables too, in their order."""
    engines = [m for m in model.modules() if isinstance(m, EmbeddingEngine | DeepHashEmbedding)]
    return [field for engine in engines for field in engine.fields]


def load(folder: Path, model: DistributedModelParallel) -> "Checkpoint":
    """Open a checkpoint on every rank and `load_into` the model; where one rank cannot, none is changed."""
    checkpoint = agree(lambda: Checkpoint(folder))
    checkpoint.load_into(model)
    return checkpoint


class Checkpoint:
    """A checkpoint folder, whose manifest and files were found whole.

    Raises CheckpointError naming the damaged or missing file, OtherVersion naming that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _manifest(folder)
        for name, mine in (("format_version", FORMAT_VERSION), ("hash_version", HASH_VERSION)):
            if manifest.get(name) != mine:
                raise OtherVersion(
                    f"{folder}: {name} {manifest.get(name)}, but this program reads {mine}; train again"
                )
        self.about: dict[str, Any] = manifest["about"]
        self.base = None if manifest["base"] is None else Checkpoint(folder.with_name(manifest["base"]))
        self.schemes: dict[str, dict[str, Any]] = manifest["schemes"]
        self.bytes = sum(entry["bytes"] for entry in manifest["files"])  # of its own files, not of its base's
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
        agree(lambda: self._check(model))
        with torch.no_grad():
            for target in pieces(model):
                if target.values.ndim == 0 or target.name.startswith("dense/"):
                    target.values.copy_(self._read_dense(target.name))
                else:
                    self._read_rows(target)

    def extra(self) -> dict[str, Tensor]:
        """What the caller of `save` added, by name."""
        with self._open("rank-0.safetensors") as file:
            names = [key for key in file.keys() if key.startswith("extra/")]  # noqa: SIM118 (no mapping)
            return {name.removeprefix("extra/"): file.get_tensor(name) for name in names}

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
        if self.base is not None and any("rows" in part for part in self._pieces[target.name]):
            self.base._read_rows(target)
        per_row = target.values.ndim == 1
        weight = torch.zeros(len(target.values)) if per_row else None
        for part in self._pieces[target.name]:
            top = max(target.first_row, part["first_row"])
            bottom = min(target.first_row + len(target.values), part["first_row"] + part["shape"][0])
            left = max(target.first_column, part["first_column"])
            right = min(target.first_column + target.columns, part["first_column"] + part["columns"])
            if top >= bottom or left >= right:
                continue
            if "rows" in part:
                self._read_changed(target, part, slice(top, bottom), slice(left, right))
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

    def _read_changed(self, target: Piece, part: Mapping[str, Any], rows: slice, columns: slice) -> None:
        """Overwrite the rows that changed since the base, of those that a part and the target have in common."""
        with self._open(part["file"]) as file:
            where = file.get_tensor(part["rows"]) + part["first_row"]
            wanted = (where >= rows.start) & (where < rows.stop)
            values = file.get_tensor(part["key"])[wanted]
        place = (where[wanted] - target.first_row).to(target.values.device)
        if target.values.ndim == 1:
            target.values[place] = values.to(target.values.device)
            return
        values = values[:, columns.start - part["first_column"] : columns.stop - part["first_column"]]
        here = slice(columns.start - target.first_column, columns.stop - target.first_column)
        target.values[place, here] = values.to(target.values.device)

    def _open(self, name: str) -> Any:
        return safe_open(self.folder / name, framework="pt")


def base_of(folder: Path) -> str | None:
    """Name of the full checkpoint that `folder` holds changes of. Raises CheckpointError as `Checkpoint` does."""
    return _manifest(folder)["base"]


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


def _to_write(values: Tensor, tied: bool) -> Tensor:
    """On the CPU; parameters may share memory (tied weights), and are written each for itself."""
    values = values.contiguous().cpu()
    return values.clone() if tied else values


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
