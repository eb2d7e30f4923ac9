"""The writer of checkpoints, every rank its own file; `checkpoint` says what is written."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext.files import CannotWrite, file_digest, new_folder
from recsys_cython_ext.manifest import write_manifest
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.changes import Baseline
from recsys_tables.distributed.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    CheckpointError,
    CheckpointManifest,
    SavedFile,
    SavedPiece,
    whole_shape,
)
from recsys_tables.distributed.pieces import Piece, fields_of, pieces
from recsys_tables.scheme import describe


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
    """Write a checkpoint of `model`. Every rank calls it, and the folder is written under a temporary name first.

    Args:
        folder: the checkpoint's, which must not exist yet.
        model: whose schemes are described, and whose values are written unless there is a `state`.
        about: JSON-able, for whoever reads it.
        state: a `snapshot` of the model.
        extra: tensors that all ranks hold alike, such as a dense optimiser's state; `Checkpoint.extra` returns them.
        since: of a shard, only rows that changed since the full checkpoint it remembers, where these are smaller;
            that one must stay beside this. A checkpoint without such shards is remembered in its place.
        group: ranks' messages go over this group, so that another thread than training's can save.

    Raises CheckpointError if the folder exists, and OSError, naming file and free bytes, where it cannot be written;
    nothing is left then.
    """
    with ExitStack() as stack:

        def start() -> Path | None:
            if folder.exists():
                raise CheckpointError(f"{folder}: exists already; save under another name")
            return stack.enter_context(new_folder(folder)) if dist.get_rank() == 0 else None

        begun: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(begun, agree(start, group), group)
        partial = begun[0]
        file = agree(lambda: _write_rank(partial, list(state or pieces(model)), extra or {}, since), group)
        files: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(files, file, group)
        base = since.name if since is not None and any(_is_partial(file) for file in files) else None

        def finish() -> None:
            if dist.get_rank() == 0:
                _write_manifest(partial, model, about, files, base)
            stack.close()  # gives the folder its name

        agree(finish, group)
    if since is not None and base is None:
        since.remember(folder.name)


def _write_rank(
    partial: Path, state: Sequence[Piece], extra: Mapping[str, Tensor], since: Baseline | None
) -> SavedFile:
    """Write this rank's file, and return what the manifest says of it."""
    rank = dist.get_rank()
    changed = {} if since is None else since.changed_rows(state)
    tensors: dict[str, Tensor] = {}
    entries = []
    for i, piece in enumerate(piece for piece in state if rank == 0 or not piece.name.startswith("dense/")):
        values, key = piece.values, str(i)
        shape, dtype, rows_key = list(values.shape), str(values.dtype), None
        if (rows := changed.get(piece.place)) is not None:
            values = values[rows]
            rows_key = "rows/{}/{}/{}".format(*piece.place)
            tensors[rows_key] = rows
        tensors[key] = _to_write(values, tied=piece.name.startswith("dense/"))
        entries.append(
            SavedPiece(name=piece.name, key=key, shape=shape, dtype=dtype, rows=rows_key, **piece.where)
        )
    if rank == 0:
        tensors |= {f"extra/{name}": values.detach().cpu().clone() for name, values in extra.items()}
    file = partial / f"rank-{rank}.safetensors"
    _write(file, sum(values.nbytes for values in tensors.values()), lambda: save_file(tensors, file))
    return SavedFile(file=file.name, bytes=file.stat().st_size, xxh64=file_digest(file), pieces=entries)


def _write(file: Path, size: int, write: Callable[[], object]) -> None:
    """Do `write`. Raises OSError with the file's name and the room there is; that of safetensors has neither."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        file.unlink(missing_ok=True)
        free = shutil.disk_usage(file.parent).free
        raise CannotWrite(
            f"{file}: {size:,} bytes cannot be written where {free:,} are free ({error}); make room and start again"
        ) from error


def _is_partial(file: SavedFile) -> bool:
    return any(piece.rows is not None for piece in file.pieces)


def _write_manifest(
    partial: Path,
    model: nn.Module,
    about: Mapping[str, Any],
    files: Sequence[SavedFile],
    base: str | None,
) -> None:
    by_name: dict[str, list[SavedPiece]] = {}
    for file in files:
        for piece in file.pieces:
            by_name.setdefault(piece.name, []).append(piece)
    manifest = CheckpointManifest(
        format_version=FORMAT_VERSION,
        hash_version=HASH_VERSION,
        schemes={field.feature: describe(field.scheme) for field in fields_of(model)},
        about=dict(about),
        base=base,
        shapes={name: whole_shape(parts) for name, parts in by_name.items()},
        files=list(files),
    )
    write_manifest(manifest, partial / MANIFEST)


def _to_write(values: Tensor, tied: bool) -> Tensor:
    """Return values on the CPU; parameters may share memory (tied weights), and are written each for itself."""
    values = values.contiguous().cpu()
    return values.clone() if tied else values
