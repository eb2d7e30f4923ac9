"""Small things shards are made with: Arrow files, renamed when whole, and draws that are pure functions of ids."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import mix64, salt


def uniform(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each id, a pure function of (purpose, seed, id).

    Draws for two purposes are independent: a split and a sample of its rows may use one seed.
    """
    key = mix64(np.array([seed], np.int64) ^ salt(purpose, 0))
    return (mix64(ids ^ key).view(np.uint64) >> np.uint64(11)).astype(np.float64) / 2**53


def read_shard(path: Path) -> pa.Table:
    """Map an Arrow IPC file into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def write_shard(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file under a temporary name, then rename it."""
    partial = path.with_suffix(".tmp")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    partial.replace(path)


def write_json(value: Any, path: Path) -> None:
    """Write indented JSON under a temporary name, then rename it."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time holds `file`: two would share temporary names. A lock dies with its process."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
