"""Where the steps of a preparation run: on threads of this process (`Threads`), or elsewhere (`on_ray`)."""

from typing import Protocol

from typing_extensions import override

from recsys_cython_ext.progress import Progress
from recsys_pipelines.features import FeatureFitter
from recsys_pipelines.parallel import ordered
from recsys_pipelines.preparation.prepared import Shard
from recsys_pipelines.preparation.staged import Staged
from recsys_pipelines.preparation.steps import Job, Staging

PARTS_AT_ONCE = 8  # parts counted between two reports


class Runner(Protocol):
    """The steps over all parts. Results do not depend on who runs them, nor in which order."""

    def stage(self, job: Job, report: Progress) -> Staged:
        """Read and type the log, but for the parts that an interrupted run has staged."""
        ...

    def write_histories(self, job: Job, staged: Staged, report: Progress) -> None:
        """Write the sequences of all users."""
        ...

    def fit(self, job: Job, staged: Staged, report: Progress) -> FeatureFitter:
        """Count the training rows."""
        ...

    def encode(self, job: Job, staged: Staged, report: Progress) -> dict[str, Shard]:
        """Write the shards, and return what the manifest says of each, by name."""
        ...


class Threads(Runner):
    """One process, one thread for each available core."""

    @override
    def stage(self, job: Job, report: Progress) -> Staged:
        if (done := job.already_staged()) is not None:
            return done
        source = job.source()
        staging = Staging(job)
        for part in ordered(job.stage, source.parts(job.source_columns())):
            size, share = source.progress()
            rows = staging.staged.rows_out + part.rows
            likely = max(rows / share, rows) if share else None
            staging.add(part, likely)
            report("read", rows, None if likely is None else round(likely), f"{size * share / 1e6:,.0f} MB")
        return staging.finish()

    @override
    def write_histories(self, job: Job, staged: Staged, report: Progress) -> None:
        buckets = job.buckets(staged)
        for bucket in range(buckets):
            job.write_history(staged, bucket)
            report("sequences", staged.rows_out * (bucket + 1) // buckets, staged.rows_out)

    @override
    def fit(self, job: Job, staged: Staged, report: Progress) -> FeatureFitter:
        fitter = FeatureFitter(job.features, staged.text, staged.unsigned)
        rows = 0
        for start in range(0, len(staged.rows), PARTS_AT_ONCE):
            parts = staged.parts[start : start + PARTS_AT_ONCE]
            job.count(staged, parts, fitter)
            rows += sum(staged.rows[part] for part in parts)
            report("fit", rows, staged.rows_out)
        return fitter

    @override
    def encode(self, job: Job, staged: Staged, report: Progress) -> dict[str, Shard]:
        shards: dict[str, Shard] = {}
        rows = 0
        for written in ordered(lambda part: job.encode(staged, part), staged.parts):
            shards |= written
            rows += sum(shard.rows for shard in written.values())
            report("write", rows, staged.rows_out)
        return shards
