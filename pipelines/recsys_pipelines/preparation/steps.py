"""What preparation does to one part, wherever it runs: stage, count, encode. Files in, files out.

A part is what a source reads at once (`sources.base.Part`). Its staged file holds typed rows, and in its metadata
what is to be known of its reading, so that a part is read once even if the run is killed after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from recsys_cython_ext import MISSING_ID, mix64
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import FileName, Manifest, parse_json, read_manifest, write_manifest
from recsys_pipelines.config import DataConfig, FeatureConfig, TimeConfig
from recsys_pipelines.features import FeatureFitter, Features, sequences_of, specs_of
from recsys_pipelines.features.convert import (
    ColumnSpec,
    Kind,
    Spec,
    columns_of,
    text_ids,
    typed,
    unsigned_columns,
)
from recsys_pipelines.features.plain import TextIds, one_array, text_or_plain
from recsys_pipelines.features.times import Time
from recsys_pipelines.preparation.history import num_buckets, with_histories, write_bucket
from recsys_pipelines.preparation.prepared import COUNTS, Shard
from recsys_pipelines.preparation.split import SPLITS, split_bounds, split_of
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


def column_specs(data: DataConfig, features: Sequence[FeatureConfig], *, labelled: bool) -> dict[str, Spec]:
    """Return the typed columns an experiment reads: each feature's, and @label, @weight, @user, @time, @truth.

    The marks keep a feature called `user` or `time` apart from the column that plays that part. Raises ValueError
    for a feature declared twice.
    """
    specs = specs_of(features)
    if data.user is not None:
        specs["@user"] = ColumnSpec(data.user, "id")
    if labelled:
        specs["@label"] = ColumnSpec(data.label.column, "label", threshold=data.label.threshold)
        roles: tuple[tuple[str, str | None, Kind], ...] = (
            ("@weight", data.weight, "weight"),
            ("@truth", data.truth, "number"),
        )
        for role, column, kind in roles:
            if column is not None:
                specs[role] = ColumnSpec(column, kind)
        if isinstance(data.time, TimeConfig):
            specs["@time"] = Time(data.time.column, data.time.format)
        elif data.time is not None:
            specs["@time"] = Time(data.time)
    return specs


def with_lone_users(table: pa.Table) -> pa.Table:
    """Give each row without a user one of its own: rows of nobody in particular are not rows of one user."""
    if "@user" not in table.column_names:
        return table
    users = table["@user"].to_numpy()
    lone = np.where(users == MISSING_ID, mix64(table["row_id"].to_numpy() ^ MISSING_ID), users)
    return table.set_column(table.column_names.index("@user"), "@user", pa.array(lone))


class BadRowsFound(Manifest):
    """The quarantine of a part: `Quarantine.to_dict`."""

    count: int
    reasons: list[tuple[str | None, str, int]]
    examples: list[BadRow]


class StagedPart(Manifest):
    """What is known of the reading of a part, called by its place in the source; metadata of the staged file."""

    name: FileName
    rows: int
    rows_added: int
    next_row: int
    text: dict[str, TextIds]
    quarantine: BadRowsFound
    unsigned: list[str] = Field(default_factory=list)

    @property
    def bad(self) -> Quarantine:
        """The rows that could not be read."""
        return Quarantine.from_dict(self.quarantine.model_dump())


class Staged(Manifest):
    """All parts of a log: the rows of each by its name, in order, and totals."""

    model_config = ConfigDict(frozen=False)

    rows: dict[FileName, int] = Field(default_factory=dict)
    rows_in: int = 0
    rows_added: int = 0
    rows_out: int = 0
    quarantined: int = 0
    next_row: int = 0
    text: dict[str, TextIds] = Field(default_factory=dict)
    unsigned: list[str] = Field(default_factory=list)
    faulty: list[FileName] = Field(default_factory=list)  # parts with rows in quarantine

    def add(self, part: StagedPart) -> None:
        """Count one more part."""
        self.rows[part.name] = part.rows
        self.rows_added += part.rows_added
        self.rows_out += part.rows
        self.quarantined += part.quarantine.count
        self.rows_in = self.rows_out + self.quarantined - self.rows_added
        self.next_row = max(self.next_row, part.next_row)
        self.text = self.text | part.text
        self.unsigned = sorted({*self.unsigned, *part.unsigned})
        if part.quarantine.count:
            self.faulty = [*self.faulty, part.name]

    @property
    def parts(self) -> list[str]:
        """Their names."""
        return list(self.rows)

    def start(self, part: str) -> int:
        """The position of the first row of a part."""
        names = self.parts
        return sum(self.rows[name] for name in names[: names.index(part)])


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
        """The typed columns."""
        return column_specs(self.data, self.features, labelled=True)

    @cached_property
    def fitted(self) -> Features:
        """The features, once they are."""
        return Features.load(self.out / "features")

    @cached_property
    def fitted_for_training(self) -> Features:
        """The same for training rows. Features of an earlier set were fitted on none of these rows: they need no folds."""
        return self.fitted if self.earlier else self.fitted.out_of_fold(self.out / "features" / COUNTS)

    def source(self) -> Source:
        """The log."""
        return open_source(self.data)

    def source_columns(self) -> list[str]:
        """What is read of it."""
        return columns_of(self.specs)

    def staged_path(self, part: str) -> Path:
        """The file of a staged part."""
        return self.out / "staged" / f"part-{part}.arrow"

    def stage(self, part: Part) -> StagedPart:
        """Read and type a part, unless that was done."""
        name = f"{part.file:04d}-{part.block:06d}"
        path = self.staged_path(name)
        if path.exists():
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
            quarantine=BadRowsFound.model_validate(bad.to_dict(), strict=False),
        )
        write_shard(table.replace_schema_metadata({"recsys": staged.model_dump_json()}), path)
        return staged

    def already_staged(self) -> Staged | None:
        """What `Staging.finish` wrote, if it did."""
        file = self.out / "staged" / "staged.json"
        return (
            read_manifest(file, Staged, {}, f"delete {self.out} and prepare again") if file.exists() else None
        )

    def decide_split(self, staged: Staged) -> None:
        """Find out where validation and test begin."""
        self.bounds = split_bounds(self.data.split, [self.staged_path(part) for part in staged.parts])

    def buckets(self, staged: Staged) -> int:
        """How many buckets of users the sequences are made in."""
        return num_buckets(staged.rows_out + self.earlier_rows, sequences_of(self.features))

    def write_history(self, staged: Staged, bucket: int) -> None:
        """Write the sequences of a bucket of users."""
        parts = [self.staged_path(part) for part in staged.parts]
        sequences = sequences_of(self.features)
        write_bucket(parts, self.earlier, sequences, self.out / "history", bucket, self.buckets(staged))

    def typed_rows(self, staged: Staged, part: str) -> tuple[pa.Table, np.ndarray]:
        """The rows of a part with their sequences, and the split of each."""
        table = read_shard(self.staged_path(part)).replace_schema_metadata(None)
        if sequences := sequences_of(self.features):
            start, folder = staged.start(part), self.out / "history"
            table = with_histories(table, start, sequences, folder, self.buckets(staged))
        assert self.bounds is not None
        return table, split_of(table, self.data.split, self.bounds)

    def count(self, staged: Staged, parts: Sequence[str], fitter: FeatureFitter) -> None:
        """Count the training rows of some parts."""
        found = []
        for part in parts:
            table, split = self.typed_rows(staged, part)
            found.append(without_published_users(_chosen(table, split == 0)))
        fitter.add(pa.concat_tables(found))

    def encode(self, staged: Staged, part: str) -> dict[str, Shard]:
        """Write the shards of a part that are not there yet; return what the manifest says of each."""
        found: dict[str, Shard] = {}
        if staged.rows[part] == 0:
            return found
        table, split = self.typed_rows(staged, part)
        for number, name in enumerate(SPLITS):
            path = self.out / name / self.staged_path(part).name
            path.parent.mkdir(exist_ok=True)
            chosen = _chosen(table, split == number)
            if chosen.num_rows == 0:
                continue
            if name != "test":  # nobody is told of the users of other rows
                chosen = without_published_users(chosen)
            if not path.exists():
                features = self.fitted_for_training if name == "train" else self.fitted
                write_shard(features.encode(chosen), path)
            found[f"{name}/{path.name}"] = Shard(
                split=name,
                rows=chosen.num_rows,
                positives=int(np.count_nonzero(chosen["@label"].to_numpy())),
                xxh64=file_digest(path),
            )
        return found

    def _numbered(self, table: pa.Table, chunk: Chunk) -> pa.Table:
        """Rows numbered after those of an earlier set, and `@line` where rows of one line belong together."""
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
        given, _ = text_or_plain(one_array(chunk.table[self.data.user]))
        own = one_array(table["@user"])
        if pa.types.is_uint64(given.type):
            own = own.view(pa.uint64())
        elif pa.types.is_string(given.type):
            own = own.cast(pa.string())
        else:
            return table
        rows = np.searchsorted(chunk.rows, table["row_id"].to_numpy() - self.first_row)
        return table.append_column(PUBLISHED_USER, pc.coalesce(given.take(pa.array(rows)), own))


class Staging:
    """Totals of parts as they are staged, in order."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.staged = Staged()
        self._quarantine = Quarantine(job.data.quarantine_limit)

    def add(self, part: StagedPart, likely_rows: float | None = None) -> None:
        """Count one more part. likely_rows: of the whole log; raises TooManyBadRows when even these would not do."""
        self.staged.add(part)
        self._quarantine.merge(part.bad)
        limit = self._quarantine.limit
        if likely_rows is not None and self._quarantine.count > 1.2 * limit * likely_rows + HOPELESS:
            self._quarantine.check(self.staged.rows_in)

    def finish(self) -> Staged:
        """All that was counted, written down. Raises TooManyBadRows, and ValueError without any row."""
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


def _chosen(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """Rows where `mask` is true, without a copy where they lie together."""
    places = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    if len(mask) == 0 or len(places) == 0:
        return table if len(mask) and mask[0] else table.slice(0, 0)
    if len(places) == 1:
        return table.slice(0, places[0]) if mask[0] else table.slice(places[0])
    if len(places) == 2 and not mask[0]:
        return table.slice(places[0], places[1] - places[0])
    return table.filter(pa.array(mask))
