"""Preparation on Ray: the steps of `steps` inside `map_batches`, with the shards of one process to the byte.

Every node must see the source and the prepared folder under the same paths (a shared file system). The log is cut
into pieces that need nothing of each other (`Source.pieces`); rows are counted first, so that every piece knows
the number of its first row. What was fitted on parts is merged as a tree: exact counts know no order.
"""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from recsys_pipelines.features import FeatureFitter
from recsys_pipelines.runner import Progress
from recsys_pipelines.sources import SourceError
from recsys_pipelines.steps import Job, Staged, StagedPart

PARTS_OF_FIT = 16  # parts that one task counts before its counts are merged with others'
MERGED_AT_ONCE = 4

Rows = list[dict[str, Any]]


@contextmanager
def ray_session(workers: int, address: str | None = None) -> Iterator[None]:
    """Ray as it is, or started for as long as the block runs: on this machine, or at `address`.

    Raises ValueError when the cluster has fewer CPUs than `workers`.
    """
    own = not ray.is_initialized()
    if own:
        where: dict[str, Any] = {"address": address}
        if address is None:
            where = {"num_cpus": workers, "include_dashboard": False}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
    try:
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < workers:
            raise ValueError(
                f"the cluster has {cpus:g} CPUs, and {workers} workers were asked for: start nodes, or ask for fewer"
            )
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)  # progress is ours to show
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        yield
    finally:
        if own:
            ray.shutdown()


class RayData:
    """`runner.Runner` on Ray Data. Needs `ray_session`; `workers` tasks run at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def stage(self, job: Job, report: Progress) -> Staged:
        """As `Runner.stage`."""
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
            found = []
            for row in rows:
                piece = pieces[row["piece"]]
                piece.files = [piece.files[0].after(row["in_file"])]
                for part in piece.parts(job.source_columns(), row["first_row"]):
                    found.append({"staged": job.stage(part).to_json()})
            return found

        parts, rows_read = [], 0
        for row in self._run(tasks, stage):
            parts.append(StagedPart.from_json(row["staged"]))
            rows_read += parts[-1].rows
            report("read", rows_read, first_row, None)
        return job.finish_staging(parts)

    def write_histories(self, job: Job, staged: Staged, report: Progress) -> None:
        """As `Runner.write_histories`."""

        def write(rows: Rows) -> Rows:
            for row in rows:
                job.write_history(staged, row["bucket"])
            return rows

        buckets = [{"bucket": bucket} for bucket in range(job.buckets(staged))]
        for done, _ in enumerate(self._run(buckets, write), 1):
            report("sequences", staged.rows_out * done // len(buckets), staged.rows_out, None)

    def fit(self, job: Job, staged: Staged, report: Progress) -> FeatureFitter:
        """As `Runner.fit`: counts of parts, then a tree of merges."""

        def count(rows: Rows) -> Rows:
            fitter = FeatureFitter(job.features, staged.text)
            job.count(staged, [part for row in rows for part in row["parts"]], fitter)
            return [{"counts": _packed(fitter)}]

        def merge(rows: Rows) -> Rows:
            return [{"counts": _packed(_merged(job, staged, rows))}]

        names = staged.parts
        groups = [
            {"parts": names[start : start + PARTS_OF_FIT]} for start in range(0, len(names), PARTS_OF_FIT)
        ]
        left = len(groups)
        counts = self._map(ray.data.from_items(groups, override_num_blocks=left), left, count)
        while left > MERGED_AT_ONCE:
            left = -(-left // MERGED_AT_ONCE)
            counts = self._map(counts.materialize().repartition(left), left, merge)
        fitter = _merged(job, staged, counts.take_all())
        report("fit", staged.rows_out, staged.rows_out, None)
        return fitter

    def encode(self, job: Job, staged: Staged, report: Progress) -> dict[str, dict[str, Any]]:
        """As `Runner.encode`."""

        job = replace(job)  # without the features, which every task reads from where they were saved

        def encode(rows: Rows) -> Rows:
            return [{"shards": json.dumps(job.encode(staged, row["part"]))} for row in rows]

        shards: dict[str, dict[str, Any]] = {}
        rows = 0
        for row in self._run([{"part": part} for part in staged.parts], encode):
            found = json.loads(row["shards"])
            shards |= found
            rows += sum(shard["rows"] for shard in found.values())
            report("write", rows, staged.rows_out, None)
        return shards

    def _run(self, items: Rows, work: Callable[[Rows], Rows]) -> Iterator[dict[str, Any]]:
        """Rows that `work` made of `items`, in order."""
        blocks = min(len(items), 4 * self._workers)
        return iter(
            self._map(ray.data.from_items(items, override_num_blocks=blocks), blocks, work).iter_rows()
        )

    def _map(self, dataset: ray.data.Dataset, blocks: int, work: Callable[[Rows], Rows]) -> ray.data.Dataset:
        """`work` over each of so many blocks, of which it makes one row or several."""

        def of_table(table: pa.Table) -> pa.Table:
            return pa.Table.from_pylist(work(table.to_pylist()))

        return dataset.map_batches(
            of_table,
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.5,
            compute=ray.data.TaskPoolStrategy(size=min(self._workers, blocks)),
        )


def _packed(fitter: FeatureFitter) -> bytes:
    file, arrays = io.BytesIO(), dict[str, Any](fitter.arrays())
    np.savez(file, **arrays)
    return file.getvalue()


def _merged(job: Job, staged: Staged, rows: Rows) -> FeatureFitter:
    fitter = FeatureFitter(job.features, staged.text)
    for row in rows:
        with np.load(io.BytesIO(row["counts"]), allow_pickle=False) as arrays:
            fitter.merge(arrays)
    return fitter
