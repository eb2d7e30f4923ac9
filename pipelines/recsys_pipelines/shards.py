"""Small things shards are made with: Arrow files and archives of arrays, and draws that are pure functions of ids."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_cython_ext import lookup_salt, mix64
from recsys_cython_ext.files import new_file

PUBLISHED_USER = "@published_user"  # column of test rows: the user as the log has it, where "@user" is a hash


def uniform(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Draw a number in [0, 1) for each id, a pure function of (purpose, seed, id).

    Draws for two purposes are independent: a split and a sample of its rows may use one seed.
    """
    key = mix64(np.array([seed], np.int64) ^ lookup_salt(purpose, 0))
    return (mix64(ids ^ key).view(np.uint64) >> np.uint64(11)).astype(np.float64) / 2**53


def line_of(table: pa.Table) -> np.ndarray:
    """Return what rows [B] are drawn by: their number, or that of the line that several of them are made of."""
    return table["@line" if "@line" in table.column_names else "row_id"].to_numpy()


def without_published_users(table: pa.Table) -> pa.Table:
    """Leave the column PUBLISHED_USER out of a table, if it has one."""
    return table.drop_columns(PUBLISHED_USER) if PUBLISHED_USER in table.column_names else table


def read_shard(path: Path) -> pa.Table:
    """Map an Arrow IPC file into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def write_shard(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file of one record batch, which appears whole."""
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    with new_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_batch(batch)


def read_metadata(path: Path) -> str:
    """Return what stands under `recsys` in the metadata of an Arrow IPC file."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema.metadata[b"recsys"].decode()


def write_arrays(arrays: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Write an .npz of named arrays, which appears whole; one array at a time is in memory."""
    with new_file(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        for name, array in arrays:
            # ZipInfo's own date, not today's: equal arrays are equal files
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_arrays(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote, or those of its arrays whose names begin with `prefix`."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith(prefix)}
