"""Small things shards are made with: Arrow files, renamed when whole, and draws that are pure functions of ids."""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import mix64, salt, xxh64


def uniform(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each id, a pure function of (purpose, seed, id).

    Draws for two purposes are independent: a split and a sample of its rows may use one seed.
    """
    key = mix64(np.array([seed], np.int64) ^ salt(purpose, 0))
    return (mix64(ids ^ key).view(np.uint64) >> np.uint64(11)).astype(np.float64) / 2**53


def line_of(table: pa.Table) -> np.ndarray:
    """What rows [B] are drawn by: their number, or that of the line that several of them are made of."""
    return table["@line" if "@line" in table.column_names else "row_id"].to_numpy()


def read_shard(path: Path) -> pa.Table:
    """Map an Arrow IPC file into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def write_shard(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file of one record batch under a temporary name, then rename it."""
    partial = path.with_suffix(".tmp")
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_batch(batch)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error}): is the disk full?") from error
    partial.replace(path)


def write_json(value: Any, path: Path) -> None:
    """Write indented JSON under a temporary name, then rename it."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def read_metadata(path: Path) -> str:
    """What stands under `recsys` in the metadata of an Arrow IPC file."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema.metadata[b"recsys"].decode()


def link(source: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the file system has no links."""
    partial = target.with_name(target.name + ".tmp")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)


def file_digest(path: Path) -> str:
    """XXH64 of a file, to tell damage: 16 hexadecimal digits."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return f"{xxh64(b''):016x}"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return f"{xxh64(mapped):016x}"


def text_digest(text: str) -> str:
    """Twelve hexadecimal digits of BLAKE2b, to name what a text describes."""
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def write_arrays(arrays: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Write an .npz of named arrays under a temporary name, then rename it; one array at a time is in memory."""
    partial = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays:
            # ZipInfo's own date, not today's: equal arrays are equal files
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    partial.replace(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@contextmanager
def locked(file: Path, seconds: float | None = None) -> Iterator[None]:
    """One process at a time holds `file`: two would share temporary names. A lock dies with its process.

    Waits for as long as another holds it; with `seconds`, raises TimeoutError after so many.
    """
    with file.open("w") as handle:
        if seconds is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _lock_within(handle, seconds)
        yield


def _lock_within(handle: IO[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(f"{handle.name}: another process holds it") from None
        time.sleep(0.1)
