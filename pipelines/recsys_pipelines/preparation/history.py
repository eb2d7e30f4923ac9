"""Sequences: what a user did before each row, point-in-time correct over all splits, in bounded memory.

Users are dealt to buckets by a hash. A bucket is sorted by user and time, its lists are written to a file with
the positions of their rows, and a part picks its rows out of every bucket's file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_cython_ext import MISSING_ID, mix64
from recsys_cython_ext.files import is_sealed, seal
from recsys_pipelines.config import SequenceConfig
from recsys_pipelines.shards import read_shard, write_shard

BUCKET_EVENTS = 2**24  # events in the lists of a bucket, on average and at most: some 500 MB while it is made


def num_buckets(rows: int, sequences: Sequence[SequenceConfig]) -> int:
    """Return how many buckets so many rows make."""
    return max(1, -(-rows * sum(sequence.length for sequence in sequences) // BUCKET_EVENTS))


def bucket_file(folder: Path, bucket: int) -> Path:
    """Return where the lists of a bucket lie."""
    return folder / f"bucket-{bucket:05d}.arrow"


def event_column(sequence: SequenceConfig) -> str:
    """Return the column of shards that holds a row's own event, for the rows that are appended later."""
    return f"@event:{sequence.name}"


def write_bucket(
    parts: Sequence[Path],
    earlier: Sequence[Path],
    sequences: Sequence[SequenceConfig],
    folder: Path,
    bucket: int,
    buckets: int,
) -> None:
    """Write the lists of one bucket, unless that was done: `position` int64 rising, and a list<int64> a sequence.

    Args:
        parts: Staged rows, whose positions count through all of them.
        earlier: Shards of a set that is appended to.
        sequences: What lists are made of.
        folder: Where the bucket's file lies.
        bucket: The number of the bucket.
        buckets: How many there are.
    """
    target = bucket_file(folder, bucket)
    if is_sealed(target):
        return
    names = [sequence.name for sequence in sequences]
    roles = ("@user", "@time", "@label", "row_id")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("position", *roles, *names)}

    def take(table: pa.Table, events: Sequence[str], start: int | None) -> None:
        users = table["@user"].to_numpy()
        places = np.flatnonzero(mix64(users).view(np.uint64) % np.uint64(buckets) == bucket)
        columns["position"].append(np.full(len(places), -1) if start is None else start + places)
        for name, column in zip((*roles, *names), (*roles, *events), strict=True):
            columns[name].append(table[column].to_numpy()[places])

    for shard in earlier:
        take(read_shard(shard), [event_column(sequence) for sequence in sequences], None)
    start = 0
    for part in parts:
        table = read_shard(part)
        take(table, names, start)
        start += table.num_rows
    by_row = np.argsort(np.concatenate(columns["row_id"]), kind="stable")  # shards are of three splits
    whole = {name: np.concatenate(values)[by_row] for name, values in columns.items()}
    lists = {
        sequence.name: histories(
            whole["@user"],
            whole["@time"],
            whole[sequence.name],
            sequence.length,
            whole["@label"] > 0 if sequence.only_positive else None,
        )
        for sequence in sequences
    }
    folder.mkdir(exist_ok=True)
    rows = pa.table({"position": whole["position"], **lists})
    write_shard(rows.filter(pa.array(whole["position"] >= 0)), target)
    seal(target)


def histories(
    users: np.ndarray, times: np.ndarray, events: np.ndarray, length: int, counts: np.ndarray | None = None
) -> pa.ListArray:
    """Return the last `length` events of each row's user at times before the row's own, oldest first: list<int64> [B].

    Args:
        users: The user of each row, int64 [B].
        times: Its time, int64 [B].
        events: Its event, int64 [B]; events of one time stay in the order of the rows.
        length: How many events a list has at most.
        counts: Which rows are events, bool [B] (all, unless given); a missing event never is one.

    Raises:
        ValueError: There are 2^31 events or more.
    """
    order = np.lexsort((times, users))  # stable: the order of the rows decides within a time
    user, time = users[order], times[order]
    is_event = events[order] != MISSING_ID
    if counts is not None:
        is_event &= counts[order]
    past = events[order][is_event]
    before = np.concatenate([[0], np.cumsum(is_event)])  # events before each sorted row
    new_user = np.concatenate([[True], user[1:] != user[:-1]])
    new_time = new_user | np.concatenate([[True], time[1:] != time[:-1]])
    place = np.arange(len(order))
    first_of_user = np.maximum.accumulate(np.where(new_user, place, 0))
    first_of_time = np.maximum.accumulate(np.where(new_time, place, 0))
    stop = before[first_of_time]
    start = np.maximum(before[first_of_user], stop - length)
    starts, lengths = np.empty_like(start), np.empty_like(start)
    starts[order], lengths[order] = start, stop - start
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] >= 2**31:
        raise ValueError(f"{offsets[-1]:,} events of a few users in one bucket: choose a smaller `length`")
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(past[places]))


def with_histories(
    table: pa.Table, start: int, sequences: Sequence[SequenceConfig], folder: Path, buckets: int
) -> pa.Table:
    """Put lists in place of the rows' own events, which go to columns of their own (`event_column`).

    The first row of `table` has the position `start`.
    """
    slices = []
    for bucket in range(buckets):
        of_bucket = read_shard(bucket_file(folder, bucket))
        low, high = np.searchsorted(of_bucket["position"].to_numpy(), [start, start + table.num_rows])
        slices.append(of_bucket.slice(low, high - low))
    lists = pa.concat_tables(slices).combine_chunks()
    lists = lists.take(pc.sort_indices(lists["position"]))
    for sequence in sequences:
        place = table.column_names.index(sequence.name)
        table = table.append_column(event_column(sequence), table[sequence.name])
        table = table.set_column(place, sequence.name, lists[sequence.name])
    return table
