"""Preparation on Ray: the steps of `steps` inside `map_batches`, with the shards of one process to the byte.

Every node must see the source and the prepared folder under the same paths (a shared file system). The log is cut
into pieces that need nothing of each other (`Source.pieces`); rows are counted first, so that every piece knows
the number of its first row. What was fitted on parts is merged as a tree: exact counts know no order.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from pydantic import TypeAdapter
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from recsys_cython_ext.manifest import parse_json
from recsys_cython_ext.progress import Progress
from recsys_pipelines.features import FeatureFitter
from recsys_pipelines.preparation.prepared import Shard
from recsys_pipelines.preparation.session import RETRIES, last_line
from recsys_pipelines.preparation.staged import Staged, StagedPart
from recsys_pipelines.preparation.steps import Job, Staging
from recsys_pipelines.preparation.threads import Runner
from recsys_pipelines.shards import read_arrays, write_arrays
from recsys_pipelines.sources import SourceError

PARTS_OF_FIT = 16  # parts that one task counts before its counts are merged with others'
MERGED_AT_ONCE = 4
FAILED = "@failed"  # column of what a task raised

Rows = list[dict[str, Any]]
SHARDS = TypeAdapter(dict[str, Shard])


class TasksLost(ValueError):
    """The workers of one task were lost more often than it is tried."""


class RayData(Runner):
    """The steps on Ray Data, with `workers` tasks at once. Needs `session.ray_session`."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    @override
    def stage(self, job: Job, report: Progress) -> Staged:
        if (done := job.already_staged()) is not None:
            return done
        source = job.source()
        next(iter(source.parts(job.source_columns())), None)  # what is wrong with the files is said here
        pieces = source.pieces()

        def count(rows: Rows) -> Rows:
            return [row | {"rows": pieces[row["piece"]].files[0].count()} for row in rows]

        counted = self._run([{"piece": number} for number in range(len(pieces))], count)
        tasks, first_row, in_file, file = [], 0, 0, None
        for row in counted:
            if pieces[row["piece"]].first_file != file:
                file, in_file = pieces[row["piece"]].first_file, 0
            tasks.append({"piece": row["piece"], "first_row": first_row, "in_file": in_file})
            first_row, in_file = first_row + row["rows"], in_file + row["rows"]
        if first_row == 0:
            raise SourceError(f"{job.data.path}: there are no rows: check that this is the right file")

        def stage(rows: Rows) -> Rows:
            parts = []
            for row in rows:
                piece = pieces[row["piece"]]
                piece.files = [piece.files[0].after(row["in_file"])]
                for part in piece.parts(job.source_columns(), row["first_row"]):
                    parts.append({"staged": job.stage(part).model_dump_json()})
            return parts

        staging = Staging(job)
        for row in self._run(tasks, stage):
            staging.add(parse_json(row["staged"], StagedPart, "a task"), first_row)
            report("read", staging.staged.rows_out, first_row)
        return staging.finish()

    @override
    def write_histories(self, job: Job, staged: Staged, report: Progress) -> None:

        def write(rows: Rows) -> Rows:
            for row in rows:
                job.write_history(staged, row["bucket"])
            return rows

        buckets = [{"bucket": bucket} for bucket in range(job.buckets(staged))]
        for done, _ in enumerate(self._run(buckets, write), 1):
            report("sequences", staged.rows_out * done // len(buckets), staged.rows_out)

    @override
    def fit(self, job: Job, staged: Staged, report: Progress) -> FeatureFitter:
        # Counts of parts are written beside the staged rows, then merged in a tree.
        def count(rows: Rows) -> Rows:
            for row in rows:
                fitter = FeatureFitter(job.features, staged.text, staged.unsigned)
                job.count(staged, row["parts"], fitter)
                write_arrays(fitter.arrays(), Path(row["counts"]))
            return [{"counts": row["counts"]} for row in rows]

        def merge(rows: Rows) -> Rows:
            for row in rows:
                write_arrays(_merged(job, staged, row["from"]).arrays(), Path(row["counts"]))
            return [{"counts": row["counts"]} for row in rows]

        names, level = staged.parts, 0
        work: Rows
        work, run = [{"parts": group} for group in batched(names, PARTS_OF_FIT)], count
        while True:
            for number, item in enumerate(work):
                item["counts"] = str(job.out / "staged" / f"counts-{level}-{number}.npz")
            files = [row["counts"] for row in self._run(work, run)]
            if len(files) <= MERGED_AT_ONCE:
                break
            work, run, level = [{"from": group} for group in batched(files, MERGED_AT_ONCE)], merge, level + 1
        report("fit", staged.rows_out, staged.rows_out)
        return _merged(job, staged, files)

    @override
    def encode(self, job: Job, staged: Staged, report: Progress) -> dict[str, Shard]:

        job = replace(job)  # without the features, which every task reads from where they were saved

        def encode(rows: Rows) -> Rows:
            return [{"shards": SHARDS.dump_json(job.encode(staged, row["part"])).decode()} for row in rows]

        shards: dict[str, Shard] = {}
        rows = 0
        for row in self._run([{"part": part} for part in staged.parts], encode):
            written = SHARDS.validate_json(row["shards"])
            shards |= written
            rows += sum(shard.rows for shard in written.values())
            report("write", rows, staged.rows_out)
        return shards

    def _run(self, items: Rows, work: Callable[[Rows], Rows]) -> Iterator[dict[str, Any]]:
        """Yield the rows that `work` makes of `items`, in order; what it raises comes out as it was."""
        blocks = min(len(items), 4 * self._workers)

        def of_table(table: pa.Table) -> pa.Table:
            try:
                return pa.Table.from_pylist(work(table.to_pylist()))
            except (ValueError, OSError) as error:  # Ray would wrap it in pages of its own
                return pa.Table.from_pylist([{FAILED: str(error), "is_of_disk": isinstance(error, OSError)}])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other argument for retries
            results = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
                of_table,
                batch_format="pyarrow",
                batch_size=None,
                num_cpus=0.5,
                compute=ray.data.TaskPoolStrategy(size=min(self._workers, blocks)),
                max_retries=RETRIES,  # its own number is without end
            )
        try:
            for row in results.iter_rows():
                if row.get(FAILED) is not None:
                    raise OSError(row[FAILED]) if row["is_of_disk"] else SourceError(row[FAILED])
                yield row
        except RayTaskError:  # a defect of ours, whose traceback is wanted
            raise
        except RayError as error:
            raise TasksLost(
                f"a task of preparation lost its worker {RETRIES + 1} times, perhaps for want of memory "
                f"({last_line(error)}): take fewer --workers; what was finished is kept, and the same command goes on"
            ) from error


def batched(items: Sequence[str], size: int) -> list[list[str]]:
    """Return `items` in groups of `size`, of which the last may be smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _merged(job: Job, staged: Staged, files: Sequence[str]) -> FeatureFitter:
    fitter = FeatureFitter(job.features, staged.text, staged.unsigned)
    for file in files:
        fitter.merge(read_arrays(Path(file)))
    return fitter
