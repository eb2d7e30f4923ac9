"""Parquet and Arrow IPC files: columns keep the types they have."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import (
    Chunk,
    File,
    Part,
    check_width,
    existing_file,
    reading,
    repeated_names,
    spread,
)
from recsys_pipelines.sources.location import Place

ROWS = 65_536  # of a chunk


class ColumnarFile(File):
    """One file whose format is `kind`. `rename` turns the names in the file into those of `schema`."""

    kind: str
    _sampled: int | None = None  # how many chunks to read of all

    def __init__(self, path: Place, rename: Callable[[str], str] = str) -> None:
        self.path = existing_file(path)
        with reading(self.path, self.kind):
            schema = self._read_schema()
        check_width(len(schema), self.path)
        names = [rename(name) for name in schema.names]
        self.repeated = repeated_names(names, schema.names)
        fields = zip(names, schema, strict=True)
        self.schema = pa.schema([f.with_name(name) for name, f in fields if name not in self.repeated])
        self._stored = dict(zip(names, schema.names, strict=True))

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        columns = list(dict.fromkeys(columns))
        self.require(columns)
        stored = [self._stored[name] for name in columns]
        row = first_row
        with reading(self.path, self.kind), closing(self._batches(stored)) as batches:
            for number, batch in enumerate(batches):
                table = pa.Table.from_batches([batch]).select(stored).rename_columns(columns)
                chunk = Chunk(table, np.arange(row, row + batch.num_rows), str(self.path))
                yield Part(number, partial(_as_it_is, chunk))
                row += batch.num_rows
        self.rows = row - first_row

    @override
    def sampled(self, parts: int) -> File:
        if self._chunks_of_groups(parts) is None:
            return self
        sample = copy(self)
        sample._sampled, sample.is_piece = parts, True
        return sample

    def _chunks_of_groups(self, parts: int) -> tuple[list[int], int] | None:
        """Return of which groups of rows some parts are, and how many of each; None where the file has no more parts."""
        with reading(self.path, self.kind):
            groups, rows = self._read_size()
        if groups <= parts and rows <= parts * ROWS:
            return None
        chosen = spread(groups, parts)
        return chosen, -(-parts // len(chosen))

    def _read_size(self) -> tuple[int, int]:
        """Return how many groups of rows there are, and how many rows, or more than any where these are not told."""
        raise NotImplementedError

    def _read_schema(self) -> pa.Schema:
        raise NotImplementedError

    def _batches(self, columns: list[str]) -> Generator[pa.RecordBatch, None, None]:
        raise NotImplementedError


def _as_it_is(chunk: Chunk, quarantine: Quarantine) -> Chunk:
    return chunk


class ParquetFile(ColumnarFile):
    """A Parquet file. Memory is bounded by the largest row group."""

    kind = "Parquet"

    @override
    def _read_schema(self) -> pa.Schema:
        with self.path.open("rb") as stream, pq.ParquetFile(stream) as file:
            return file.schema_arrow

    @override
    def _batches(self, columns: list[str]) -> Generator[pa.RecordBatch, None, None]:
        with self.path.open("rb") as stream, pq.ParquetFile(stream) as file:
            rows = 0
            for batch in self._stored_batches(file, columns):
                rows += batch.num_rows
                self.read_to(rows / max(file.metadata.num_rows, 1))
                yield batch

    def _stored_batches(self, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        sample = None if self._sampled is None else self._chunks_of_groups(self._sampled)
        if sample is None:
            yield from file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)
            return
        for group in sample[0]:
            batches = file.iter_batches(ROWS, row_groups=[group], columns=columns, use_threads=False)
            yield from islice(batches, sample[1])

    @override
    def _read_size(self) -> tuple[int, int]:
        with self.path.open("rb") as stream, pq.ParquetFile(stream) as file:
            return file.num_row_groups, file.metadata.num_rows

    @override
    def rows_by_metadata(self) -> int | None:
        return self._read_size()[1]


class ArrowFile(ColumnarFile):
    """An Arrow IPC file; Feather version 2 is the same format. A local file is mapped, not read, into memory."""

    kind = "Arrow IPC"

    @override
    def _read_schema(self) -> pa.Schema:
        with self._stream() as stream:
            return pa.ipc.open_file(stream).schema

    @override
    def _batches(self, columns: list[str]) -> Generator[pa.RecordBatch, None, None]:
        places_of = {name: place for place, name in enumerate(self._read_schema().names)}
        places = [places_of[name] for name in columns]
        with self._stream() as stream:
            reader = pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=places))
            sample = None if self._sampled is None else self._chunks_of_groups(self._sampled)
            for index in range(reader.num_record_batches) if sample is None else sample[0]:
                batch = reader.get_batch(index)
                self.read_to((index + 1) / reader.num_record_batches)
                batch.validate(full=True)  # Arrow trusts offsets, and a damaged one ends the process
                starts = range(0, batch.num_rows, ROWS)
                for start in starts if sample is None else starts[: sample[1]]:
                    yield batch.slice(start, ROWS)

    @override
    def _read_size(self) -> tuple[int, int]:
        with self._stream() as stream:
            reader = pa.ipc.open_file(stream)
            return reader.num_record_batches, sum(
                reader.get_batch(i).num_rows for i in range(reader.num_record_batches)
            )

    def _stream(self) -> pa.NativeFile:
        if isinstance(self.path, Path):
            return pa.memory_map(str(self.path))
        return pa.PythonFile(self.path.open(), mode="r")


COLUMNAR: dict[str, type[ColumnarFile]] = {
    ".parquet": ParquetFile,
    ".pq": ParquetFile,
    ".arrow": ArrowFile,
    ".ipc": ArrowFile,
    ".feather": ArrowFile,
}
