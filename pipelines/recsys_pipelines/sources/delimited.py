"""Delimited text, plain or compressed: one row is one line, and every field is a string.

Lines are cut in `blocks`, and fields here, or by Arrow where there are quotes. A quoted field cannot run over the end of
its line: allowing it would let one stray quote swallow the rows that follow, so such lines go to quarantine.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray
from typing_extensions import override

from recsys_cython_ext.text import TextScan, scan, split_fields
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import blocks
from recsys_pipelines.sources.base import (
    Chunk,
    File,
    Part,
    SourceError,
    check_width,
    existing_file,
    reading,
    repeated_names,
    size_of,
    spread,
)
from recsys_pipelines.sources.dialect import Dialect, wrong_width
from recsys_pipelines.sources.location import Place, Url
from recsys_pipelines.sources.text import utf8

BLOCKS_OF_PIECE = 16  # of a file that is read by several processes


class DelimitedFile(File):
    """One text file. Without `names` its first line holds them; `rename` turns those into column names."""

    def __init__(
        self,
        path: Place,
        dialect: Dialect,
        names: Sequence[str] | None = None,
        rename: Callable[[str], str] = str,
    ) -> None:
        self.path = existing_file(path)
        self._dialect = dialect
        self._header_lines = int(names is None)
        self._block_size = blocks.BLOCK  # goes with the file to other processes
        self._ranges: list[tuple[int, int | None]] = [(0, None)]  # of blocks
        self._rows_before = 0
        stored = self.first_line() if names is None else names
        self.names = list(map(rename, stored))
        self.repeated = repeated_names(self.names, stored)
        self.schema = pa.schema([(name, pa.string()) for name in self.names if name not in self.repeated])
        self._places = {name: place for place, name in enumerate(self.names)}

    def first_line(self) -> list[str]:
        """Return the fields of the first line, without surrounding spaces."""
        line = blocks.first_bytes(self.path)
        if not line:
            raise SourceError(f"{self.path}: the first line is empty: copy or export the file again")
        try:
            fields = self._dialect.fields(line.decode(self._dialect.encoding))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{self.path}: the first line is unreadable ({error}): correct it") from error
        check_width(len(fields), self.path)
        return [field.strip() for field in fields]

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        columns = list(dict.fromkeys(columns))
        self.require(columns)
        first_line = 1 + self._header_lines + self._rows_before
        self.rows = 0
        for block in self._numbered_blocks(first_line):
            self.rows += block.count
            # A block of lines is a part.
            yield Part(block.number, partial(self._chunk, block, columns, first_row - first_line))

    @override
    def pieces(self) -> list[File]:
        count = self._count_of_blocks()
        if count is None:
            return [self]
        return [
            self._with_blocks([(start, start + BLOCKS_OF_PIECE)])
            for start in range(0, count, BLOCKS_OF_PIECE)
        ]

    @override
    def sampled(self, parts: int) -> File:
        count = self._count_of_blocks()
        if count is None:
            return super().sampled(parts)
        return self if count <= parts else self._with_blocks([(n, n + 1) for n in spread(count, parts)])

    def _count_of_blocks(self) -> int | None:
        """Return how many blocks can be read alone; None where none can."""
        if isinstance(self.path, Url) or self.path.suffix.lower() in blocks.COMPRESSIONS:
            return None
        return -(-size_of(self.path) // self._block_size)

    def _with_blocks(self, ranges: list[tuple[int, int | None]]) -> "DelimitedFile":
        piece = copy(self)
        piece._ranges, piece.is_piece = ranges, True
        return piece

    @override
    def after(self, rows: int) -> File:
        piece = copy(self)
        piece._rows_before = rows
        return piece

    def _numbered_blocks(self, line: int) -> Iterator["_Block"]:
        """Yield blocks of rows, without the header; the first has the line number `line`."""
        headers = self._header_lines if self._ranges[0][0] == 0 else 0
        ranges = (
            blocks.read_blocks(self.path, numbers, self._block_size, self.read_to) for numbers in self._ranges
        )
        for number, text in chain.from_iterable(ranges):
            if headers:
                text, headers = text.partition(b"\n")[2], 0
            look = scan(text, self._dialect.byte)
            count = look.line_ends + (text[-1:] not in (b"", b"\n"))
            yield _Block(number, text, line, count, look)
            line += count

    def _without_faults(
        self, block: "_Block", row_of_line: int, quarantine: Quarantine
    ) -> tuple[bytearray, NDArray[np.int64]]:
        """Return the lines that can be split, and their numbers [B]; the others go to quarantine."""
        good, numbers = [], []
        for number, text in zip(block.lines.tolist(), block.text.split(b"\n"), strict=False):
            text = text.removesuffix(b"\r")  # which ends the last line too, without a line end after it
            fault = self._dialect.fault(text, len(self.names))
            if fault is None:
                good.append(text)
                numbers.append(number)
            else:
                quarantine.add(str(self.path), number + row_of_line, number, None, bytes(text), fault)
        return bytearray(b"\n".join(good)), np.array(numbers, np.int64)

    def _chunk(self, block: "_Block", columns: list[str], row_of_line: int, quarantine: Quarantine) -> Chunk:
        """Return the rows of a block; lines that do not split, and fields that are not text, go to quarantine."""
        text, lines, faulty = block.text, block.lines, self._dialect.suspicious(block.text, block.scan)
        if faulty:
            text, lines = self._without_faults(block, row_of_line, quarantine)
        if self._dialect.byte != self._dialect.delimiter:
            text = text.replace(self._dialect.delimiter, self._dialect.byte)
        if self._dialect.encoding != "utf-8":
            text = bytearray(text.decode(self._dialect.encoding).encode())
        split = self._split_quoted if self._dialect.quoted and block.scan.quotes else self._split
        arrays, good, wrong = split(text, len(lines), columns)
        for place, (width, line) in zip(np.flatnonzero(~good), wrong, strict=True):
            number, reason = int(lines[place]), wrong_width(width, len(self.names))
            quarantine.add(str(self.path), number + row_of_line, number, None, line, reason)
        lines = lines[good]
        table = pa.table(dict(zip(columns, arrays, strict=True)))
        if columns and table.num_rows != len(lines):
            raise SourceError(f"{self.path}: lines {lines[0]} to {lines[-1]} do not split into rows")
        chunk = Chunk(table, lines + row_of_line, str(self.path), lines)
        return _decoded(chunk, quarantine) if faulty else chunk

    def _split(self, text: bytearray, lines: int, columns: list[str]) -> "_Split":
        """Split text without quotes."""
        places = [self._places[name] for name in columns]
        fields = split_fields(text, self._dialect.byte, len(self.names), places)
        wrong = []
        if len(fields.field_counts):
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
            for place, width in zip(np.flatnonzero(~fields.good), fields.field_counts, strict=True):
                start = ends[place - 1] + 1 if place else 0
                stop = ends[place] if place < len(ends) else len(text)
                wrong.append((int(width), bytes(text[start:stop]).removesuffix(b"\r")))
        return fields.arrays, fields.good, wrong

    def _split_quoted(self, text: bytearray, lines: int, columns: list[str]) -> "_Split":
        """Split text that may have quotes, with Arrow."""
        good = np.ones(lines, bool)
        wrong: list[tuple[int, bytes]] = []
        if lines == 0:  # all were faulty; Arrow refuses to read nothing
            return [pa.array([], pa.string()) for _ in columns], good, wrong

        def skip(row: pa_csv.InvalidRow) -> str:
            good[row.number - 1] = False
            wrong.append((row.actual_columns, row.text.encode(errors="surrogateescape")))
            return "skip"

        numbered = [str(place) for place in range(len(self.names))]  # names may stand twice
        stored = [numbered[self._places[name]] for name in columns]
        with reading(self.path, "text"):
            table = pa_csv.read_csv(
                pa.BufferReader(text),
                pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=numbered),
                pa_csv.ParseOptions(
                    delimiter=self._dialect.byte.decode(),
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                pa_csv.ConvertOptions(
                    include_columns=stored,
                    column_types=dict.fromkeys(stored, pa.string()),
                    check_utf8=False,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        return [table[place].combine_chunks() for place in stored], good, wrong


# columns, which lines [B] have the right width, and the width and text of each that has not
_Split = tuple[list[pa.Array], NDArray[np.bool_], list[tuple[int, bytes]]]


@dataclass(frozen=True)
class _Block:
    """Whole lines of a file, the number of the first one and how many there are; `scan` is what a quick look saw."""

    number: int
    text: bytearray
    line: int
    count: int
    scan: TextScan

    @property
    def lines(self) -> NDArray[np.int64]:
        """Their numbers in the file, from 1."""
        return np.arange(self.line, self.line + self.count)


def _decoded(chunk: Chunk, quarantine: Quarantine) -> Chunk:
    """Leave out the rows whose values are not UTF-8: they go to quarantine."""
    good = np.ones(len(chunk.rows), bool)
    strings = {}
    for name in chunk.table.column_names:
        text = chunk.table[name].combine_chunks()
        column = pa.BinaryArray.from_buffers(
            pa.binary(), len(text), text.buffers(), text.null_count, text.offset
        )
        strings[name], bad = utf8(column)
        chunk.report(bad & good, name, column, "not UTF-8 text", quarantine)
        good &= ~bad
    return Chunk(pa.table(strings), chunk.rows, chunk.file, chunk.lines).keep(good)
