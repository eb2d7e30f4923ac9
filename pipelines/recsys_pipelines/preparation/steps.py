"""What preparation does to one part, wherever it runs: stage, count, encode. Files in, files out.

A part is what a source reads at once (`sources.base.Part`). Its staged file holds typed rows, and in its metadata
what is to be known of its reading (`staged.StagedPart`), so that a part is read once even if the run is killed after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_cython_ext.files import file_digest, is_sealed, seal
from recsys_cython_ext.manifest import parse_json, read_manifest, write_manifest
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features, sequences_of
from recsys_pipelines.features.convert import Spec, columns_of, text_ids, typed, unsigned_columns
from recsys_pipelines.features.plain import one_array, text_or_plain
from recsys_pipelines.preparation.history import num_buckets, with_histories, write_bucket
from recsys_pipelines.preparation.prepared import COUNTS, Shard
from recsys_pipelines.preparation.roles import column_specs, with_lone_users
from recsys_pipelines.preparation.split import SPLITS, split_bounds, split_of
from recsys_pipelines.preparation.staged import QuarantineRecord, Staged, StagedPart
from recsys_pipelines.quarantine import BadRow, Quarantine, write_bad_rows
from recsys_pipelines.shards import (
    PUBLISHED_USER,
    read_metadata,
    read_shard,
    without_published_users,
    write_shard,
)
from recsys_pipelines.sources import Source, open_source
from recsys_pipelines.sources.base import Chunk, Part

HOPELESS = 1000  # bad rows that are too few to give a log up half-way


@dataclass
class Job:
    """One preparation. It pickles, and every worker that has it does the same."""

    data: DataConfig
    features: tuple[FeatureConfig, ...]
    out: Path
    first_row: int = 0  # number of the first row: after those of the set that is appended to
    earlier: tuple[Path, ...] = ()  # shards of that set
    earlier_rows: int = 0
    bounds: np.ndarray | None = None

    @cached_property
    def specs(self) -> dict[str, Spec]:
        """The typed columns that are made of the log."""
        return column_specs(self.data, self.features, labelled=True)

    @cached_property
    def fitted(self) -> Features:
        """The fitted features, read from where they were saved."""
        return Features.load(self.out / "features")

    @cached_property
    def fitted_for_training(self) -> Features:
        """The features as training rows get them: those of an earlier set were fitted on other rows, and need no folds."""
        return self.fitted if self.earlier else self.fitted.out_of_fold(self.out / "features" / COUNTS)

    def source(self) -> Source:
        """Open the log."""
        return open_source(self.data)

    def source_columns(self) -> list[str]:
        """Return the columns that are read of the log."""
        return columns_of(self.specs)

    def staged_path(self, part: str) -> Path:
        """Return the file of a staged part."""
        return self.out / "staged" / f"part-{part}.arrow"

    def stage(self, part: Part) -> StagedPart:
        """Read and type a part, unless that was done."""
        name = f"{part.file:04d}-{part.block:06d}"
        path = self.staged_path(name)
        if is_sealed(path):
            return parse_json(read_metadata(path), StagedPart, path)
        bad = Quarantine(keep_all=True)
        chunk = part.read(bad)
        rows_in = chunk.table.num_rows + bad.count - chunk.added
        table = with_lone_users(self._numbered(typed(chunk, self.specs, bad), chunk))
        table = self._with_published_users(table, chunk)
        if table.num_rows + bad.count - chunk.added != rows_in:
            raise AssertionError(
                f"{chunk.file}: rows were lost between reading and preparing; please report this"
            )
        next_row = self.first_row + (int(chunk.rows[-1]) + 1 if len(chunk.rows) else 0)
        staged = StagedPart(
            name=name,
            rows=table.num_rows,
            rows_added=chunk.added,
            next_row=next_row,
            text=text_ids(chunk, self.specs),
            unsigned=unsigned_columns(chunk, self.specs),
            quarantine=QuarantineRecord.model_validate(bad.to_dict(), strict=False),
        )
        write_shard(table.replace_schema_metadata({"recsys": staged.model_dump_json()}), path)
        seal(path)
        return staged

    def already_staged(self) -> Staged | None:
        """Return what `Staging.finish` wrote; None unless it did, and all parts are there and whole."""
        file = self.out / "staged" / "staged.json"
        if not file.exists():
            return None
        staged = read_manifest(file, Staged, {}, f"delete {self.out} and prepare again")
        return staged if all(is_sealed(self.staged_path(part)) for part in staged.parts) else None

    def decide_split(self, staged: Staged) -> None:
        """Find out where validation and test begin."""
        self.bounds = split_bounds(self.data.split, [self.staged_path(part) for part in staged.parts])

    def buckets(self, staged: Staged) -> int:
        """Return how many buckets of users the sequences are made in."""
        return num_buckets(staged.rows_out + self.earlier_rows, sequences_of(self.features))

    def write_history(self, staged: Staged, bucket: int) -> None:
        """Write the sequences of a bucket of users."""
        parts = [self.staged_path(part) for part in staged.parts]
        sequences = sequences_of(self.features)
        write_bucket(parts, self.earlier, sequences, self.out / "history", bucket, self.buckets(staged))

    def typed_rows(self, staged: Staged, part: str) -> tuple[pa.Table, np.ndarray]:
        """Return the rows of a part with their sequences, and the split of each."""
        table = read_shard(self.staged_path(part)).replace_schema_metadata(None)
        if sequences := sequences_of(self.features):
            start, folder = staged.start(part), self.out / "history"
            table = with_histories(table, start, sequences, folder, self.buckets(staged))
        assert self.bounds is not None
        return table, split_of(table, self.data.split, self.bounds)

    def count(self, staged: Staged, parts: Sequence[str], fitter: FeatureFitter) -> None:
        """Count the training rows of some parts."""
        tables = []
        for part in parts:
            table, split = self.typed_rows(staged, part)
            tables.append(without_published_users(_filtered(table, split == 0)))
        fitter.add(pa.concat_tables(tables))

    def encode(self, staged: Staged, part: str) -> dict[str, Shard]:
        """Write the shards of a part that are not there yet; return what the manifest says of each."""
        shards: dict[str, Shard] = {}
        if staged.rows[part] == 0:
            return shards
        table, split = self.typed_rows(staged, part)
        for number, name in enumerate(SPLITS):
            path = self.out / name / self.staged_path(part).name
            path.parent.mkdir(exist_ok=True)
            rows = _filtered(table, split == number)
            if rows.num_rows == 0:
                continue
            if name != "test":  # nobody is told of the users of other rows
                rows = without_published_users(rows)
            if not path.exists():
                features = self.fitted_for_training if name == "train" else self.fitted
                write_shard(features.encode(rows), path)
            shards[f"{name}/{path.name}"] = Shard(
                split=name,
                rows=rows.num_rows,
                positives=int(np.count_nonzero(rows["@label"].to_numpy())),
                xxh64=file_digest(path),
            )
        return shards

    def _numbered(self, table: pa.Table, chunk: Chunk) -> pa.Table:
        """Give rows numbers after those of an earlier set, and add `@line` where rows of one line belong together."""
        rows = table["row_id"].to_numpy()
        if chunk.shared_lines and chunk.lines is not None:
            lines = chunk.lines[np.searchsorted(chunk.rows, rows)]
            table = table.append_column("@line", pa.array(self.first_row + lines))
        if self.first_row == 0:
            return table
        numbers = pa.array(rows + self.first_row)
        return table.set_column(table.column_names.index("row_id"), "row_id", numbers)

    def _with_published_users(self, table: pa.Table, chunk: Chunk) -> pa.Table:
        """Add each row's user as it stands in the log, where `@user` is a hash or other bits of it.

        A row without a user shows the number that `with_lone_users` gave it.
        """
        if self.data.user is None:
            return table
        published, _ = text_or_plain(one_array(chunk.table[self.data.user]))
        user = one_array(table["@user"])
        if pa.types.is_uint64(published.type):
            user = user.view(pa.uint64())
        elif pa.types.is_string(published.type):
            user = user.cast(pa.string())
        else:
            return table
        rows = np.searchsorted(chunk.rows, table["row_id"].to_numpy() - self.first_row)
        return table.append_column(PUBLISHED_USER, pc.coalesce(published.take(pa.array(rows)), user))


class Staging:
    """The totals of parts as they are staged, in order."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.staged = Staged()
        self._quarantine = Quarantine(job.data.quarantine_limit)

    def add(self, part: StagedPart, likely_rows: float | None = None) -> None:
        """Count one more part.

        Raises TooManyBadRows when there are more than even `likely_rows`, those of the whole log, would allow.
        """
        self.staged.add(part)
        self._quarantine.merge(part.bad)
        limit = self._quarantine.limit
        if likely_rows is not None and self._quarantine.count > 1.2 * limit * likely_rows + HOPELESS:
            self._quarantine.check(self.staged.rows_in)

    def finish(self) -> Staged:
        """Write down what was counted, and return it. Raises TooManyBadRows, and ValueError without any row."""
        if self.staged.faulty:
            write_bad_rows(self._bad_rows(), self._job.out / "quarantine")
        self._quarantine.check(self.staged.rows_in)
        if self.staged.rows_out == 0:
            raise ValueError(f"{self._job.data.path}: holds no readable row")
        write_manifest(self.staged, self._job.out / "staged" / "staged.json")
        return self.staged

    def _bad_rows(self) -> Iterator[BadRow]:
        for name in self.staged.faulty:
            path = self._job.staged_path(name)
            yield from parse_json(read_metadata(path), StagedPart, path).bad.examples


def _filtered(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """Return the rows where `mask` is true, without a copy where they lie together."""
    places = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    if len(mask) == 0 or len(places) == 0:
        return table if len(mask) and mask[0] else table.slice(0, 0)
    if len(places) == 1:
        return table.slice(0, places[0]) if mask[0] else table.slice(places[0])
    if len(places) == 2 and not mask[0]:
        return table.slice(places[0], places[1] - places[0])
    return table.filter(pa.array(mask))
