"""Delimited text, plain or compressed (.gz, .zst, .bz2): one row is one line, and every field is a string.

Lines are cut here; fields too, or by Arrow where there are quotes. A quoted field cannot run over the end of its
line: allowing it would let one stray quote swallow the rows that follow, so such lines go to quarantine.
"""

import csv
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from recsys_cython_ext.text import TextScan, scan, split_fields
from recsys_pipelines.quarantine import Quarantine
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
)
from recsys_pipelines.sources.location import Place, Url
from recsys_pipelines.sources.text import utf8

BLOCK = 8 << 20  # bytes read at once
BLOCKS_OF_PIECE = 16  # of a file that is read by several processes
LONGEST_LINE = 64 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # by the end of a name
UNIT_SEPARATOR = b"\x1f"  # stands for a delimiter of several bytes, which Arrow does not know
_WIDTH = "{} columns instead of {}"
csv.field_size_limit(LONGEST_LINE)  # of 131,072 characters: a long line without quotes is read too


@dataclass(frozen=True)
class Dialect:
    """How lines split into fields. Without `quoted`, a quote is a character like any other."""

    delimiter: bytes
    quoted: bool = False
    encoding: str = "utf-8"

    @property
    def byte(self) -> bytes:
        """The single byte that Arrow splits at."""
        return self.delimiter if len(self.delimiter) == 1 else UNIT_SEPARATOR

    def fault(self, line: bytes | bytearray, width: int) -> str | None:
        """What keeps Arrow from splitting a line (without its end) into `width` fields, or None."""
        if not line:
            return "blank line"
        if b"\r" in line:
            return "carriage return inside a line"
        if self.byte != self.delimiter and self.byte in line:
            return "control character 1F inside a line"
        if self.quoted and b'"' in line:
            try:
                self.fields(line.decode("latin-1"))
            except csv.Error as error:
                return f"quotes: {error}"
        if not self._decodes(
            line
        ):  # Arrow cannot hand a line that is both too wide and no text to its handler
            found = len(self.fields(line.decode("latin-1")))
            return None if found == width else _WIDTH.format(found, width)
        return None

    def suspicious(self, block: bytearray, seen: TextScan) -> bool:
        """Whether any line of `block` could have a fault: a quick look that lets most blocks pass whole."""
        return bool(
            block.startswith((b"\n", b"\r\n"))
            or seen.double_line_ends
            or seen.carriage_returns != seen.returns_before_line_end
            or (seen.carriage_returns and b"\n\r\n" in block)
            or (self.byte != self.delimiter and seen.special)
            or (self.quoted and seen.quotes)
            or not (seen.ascii or self._decodes(block))
        )

    def fields(self, line: str) -> list[str]:
        """The fields of one line. Raises csv.Error when its quotes do not match."""
        if not self.quoted:
            return line.split(self.delimiter.decode())
        return next(csv.reader([line], delimiter=self.delimiter.decode(), strict=True))

    def _decodes(self, text: bytes | bytearray) -> bool:
        try:
            return text.isascii() or bool(text.decode(self.encoding))
        except UnicodeDecodeError:
            return False


TAB = Dialect(b"\t")
COMMA = Dialect(b",", quoted=True)
QUOTED_TAB = Dialect(b"\t", quoted=True)


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
        self._block_size = BLOCK  # goes with the file to other processes
        self._blocks: tuple[int, int | None] = (0, None)
        self._rows_before = 0
        stored = self.first_line() if names is None else names
        self.names = list(map(rename, stored))
        self.repeated = repeated_names(self.names, stored)
        self.schema = pa.schema([(name, pa.string()) for name in self.names if name not in self.repeated])
        self._places = {name: place for place, name in enumerate(self.names)}

    def first_line(self) -> list[str]:
        """The fields of the first line, without surrounding spaces."""
        line = first_bytes(self.path)
        if not line:
            raise SourceError(f"{self.path}: the first line is empty: copy or export the file again")
        try:
            fields = self._dialect.fields(line.decode(self._dialect.encoding))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{self.path}: the first line is unreadable ({error}): correct it") from error
        check_width(len(fields), self.path)
        return [field.strip() for field in fields]

    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        """As `File.parts`; a block of lines is a part."""
        columns = list(dict.fromkeys(columns))
        self.require(columns)
        first_line = 1 + self._header_lines + self._rows_before
        self.rows = 0
        for block in self._numbered_blocks(first_line):
            self.rows += block.count
            yield Part(block.number, partial(self._chunk, block, columns, first_row - first_line))

    def pieces(self) -> list[File]:
        """As `File.pieces`: ranges of blocks, of a local file that is not compressed."""
        if isinstance(self.path, Url) or self.path.suffix.lower() in COMPRESSIONS:
            return [self]
        found: list[File] = []
        for start in range(0, -(-size_of(self.path) // self._block_size), BLOCKS_OF_PIECE):
            own = copy(self)
            own._blocks, own.is_piece = (start, start + BLOCKS_OF_PIECE), True
            found.append(own)
        return found

    def after(self, rows: int) -> File:
        """As `File.after`."""
        own = copy(self)
        own._rows_before = rows
        return own

    def _numbered_blocks(self, line: int) -> Iterator["_Block"]:
        """Blocks of rows, without the header; the first has the line number `line`."""
        headers = self._header_lines if self._blocks[0] == 0 else 0
        for number, text in blocks(self.path, self._blocks, self._block_size, self.read_to):
            if headers:
                text, headers = text.partition(b"\n")[2], 0
            seen = scan(text, self._dialect.byte)
            count = seen.line_ends + (text[-1:] not in (b"", b"\n"))
            yield _Block(number, text, line, count, seen)
            line += count

    def _without_faults(
        self, block: "_Block", row_of_line: int, quarantine: Quarantine
    ) -> tuple[bytearray, NDArray[np.int64]]:
        """The lines that can be split, and their numbers [B]."""
        good, kept = [], []
        for number, text in zip(block.lines.tolist(), block.text.split(b"\n"), strict=False):
            text = text.removesuffix(b"\r")  # which ends the last line too, without a line end after it
            fault = self._dialect.fault(text, len(self.names))
            if fault is None:
                good.append(text)
                kept.append(number)
            else:
                quarantine.add(str(self.path), number + row_of_line, number, None, bytes(text), fault)
        return bytearray(b"\n".join(good)), np.array(kept, np.int64)

    def _chunk(self, block: "_Block", columns: list[str], row_of_line: int, quarantine: Quarantine) -> Chunk:
        """The rows of a block; lines that do not split, and fields that are not text, go to quarantine."""
        text, lines, faulty = block.text, block.lines, self._dialect.suspicious(block.text, block.seen)
        if faulty:
            text, lines = self._without_faults(block, row_of_line, quarantine)
        if self._dialect.byte != self._dialect.delimiter:
            text = text.replace(self._dialect.delimiter, self._dialect.byte)
        if self._dialect.encoding != "utf-8":
            text = bytearray(text.decode(self._dialect.encoding).encode())
        split = self._split_quoted if self._dialect.quoted and block.seen.quotes else self._split
        arrays, good, wrong = split(text, len(lines), columns)
        for place, (found, line) in zip(np.flatnonzero(~good), wrong, strict=True):
            number, reason = int(lines[place]), _WIDTH.format(found, len(self.names))
            quarantine.add(str(self.path), number + row_of_line, number, None, line, reason)
        lines = lines[good]
        table = pa.table(dict(zip(columns, arrays, strict=True)))
        if columns and table.num_rows != len(lines):
            raise SourceError(f"{self.path}: lines {lines[0]} to {lines[-1]} do not split into rows")
        chunk = Chunk(table, lines + row_of_line, str(self.path), lines)
        return _decoded(chunk, quarantine) if faulty else chunk

    def _split(self, text: bytearray, lines: int, columns: list[str]) -> "_Split":
        """Text without quotes."""
        places = [self._places[name] for name in columns]
        fields = split_fields(text, self._dialect.byte, len(self.names), places)
        wrong = []
        if len(fields.field_counts):
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
            for place, found in zip(np.flatnonzero(~fields.good), fields.field_counts, strict=True):
                start = ends[place - 1] + 1 if place else 0
                stop = ends[place] if place < len(ends) else len(text)
                wrong.append((int(found), bytes(text[start:stop]).removesuffix(b"\r")))
        return fields.arrays, fields.good, wrong

    def _split_quoted(self, text: bytearray, lines: int, columns: list[str]) -> "_Split":
        """Text that may have quotes."""
        good = np.ones(lines, bool)
        wrong: list[tuple[int, bytes]] = []
        if lines == 0:  # all were faulty; Arrow refuses to read nothing
            return [pa.array([], pa.string()) for _ in columns], good, wrong

        def wrong_width(row: pa_csv.InvalidRow) -> str:
            good[row.number - 1] = False
            wrong.append((row.actual_columns, row.text.encode(errors="surrogateescape")))
            return "skip"

        numbered = [str(place) for place in range(len(self.names))]  # names may stand twice
        asked = [numbered[self._places[name]] for name in columns]
        with reading(self.path, "text"):
            table = pa_csv.read_csv(
                pa.BufferReader(text),
                pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=numbered),
                pa_csv.ParseOptions(
                    delimiter=self._dialect.byte.decode(),
                    ignore_empty_lines=False,
                    invalid_row_handler=wrong_width,
                ),
                pa_csv.ConvertOptions(
                    include_columns=asked,
                    column_types=dict.fromkeys(asked, pa.string()),
                    check_utf8=False,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        return [table[place].combine_chunks() for place in asked], good, wrong


_Split = tuple[list[pa.Array], NDArray[np.bool_], list[tuple[int, bytes]]]


@dataclass(frozen=True)
class _Block:
    """Whole lines of a file: the first one's number, how many there are, and what a quick look saw."""

    number: int
    text: bytearray
    line: int
    count: int
    seen: TextScan

    @property
    def lines(self) -> NDArray[np.int64]:
        """Their numbers."""
        return np.arange(self.line, self.line + self.count)


def _decoded(chunk: Chunk, quarantine: Quarantine) -> Chunk:
    """`chunk` without the rows whose values are not UTF-8, which go to quarantine."""
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


def first_bytes(path: Path | Url) -> bytes:
    """The first line without its end, whatever is in it."""
    with closing(blocks(path)) as pieces:
        return bytes(next(pieces, (0, b""))[1].split(b"\n", 1)[0].removesuffix(b"\r"))


def numbered_lines(path: Path | Url, read_to: Callable[[float], None]) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of lines without their ends, each with the 1-based number of its first line."""
    line = 1
    for _, block in blocks(path, read_to=read_to):
        lines = [text.removesuffix(b"\r") for text in bytes(block).removesuffix(b"\n").split(b"\n")]
        yield line, lines
        line += len(lines)


def blocks(
    path: Path | Url,
    numbers: tuple[int, int | None] = (0, None),
    block_size: int | None = None,
    read_to: Callable[[float], None] = lambda share: None,
) -> Generator[tuple[int, bytearray], None, None]:
    """The bytes of a file in numbered pieces of whole lines; only the last may lack its line end.

    Block n holds the lines that end within the n-th `block_size` bytes (`BLOCK` unless given), if any, so that
    `numbers`, the first and the one after the last of some blocks of a file that is not compressed, can be read
    alone. read_to is told the share of the file that has been read.
    """
    size = max(size_of(path), 1)
    compression = COMPRESSIONS.get(path.suffix.lower())
    first, stop = numbers
    block_size = block_size or BLOCK
    with reading(path, "text or compressed text"), ExitStack() as opened:
        raw = opened.enter_context(path.open("rb"))
        rest = _line_so_far(raw, first * block_size) if first else bytearray()
        stream: Any = raw
        if compression is not None:
            stream = opened.enter_context(pa.input_stream(raw, compression=compression))
        for number in count(first):
            piece = bytearray(len(rest) + block_size)
            piece[: len(rest)] = rest
            read = _fill(stream, memoryview(piece)[len(rest) :]) if stop is None or number < stop else 0
            del piece[len(rest) + read :]
            if number == 0 and piece.startswith(b"\xef\xbb\xbf"):  # the mark some editors put first
                del piece[:3]
            read_to(raw.tell() / size)
            end = piece.rfind(b"\n", 0 if number == 0 else len(rest)) + 1
            rest = piece[end:]
            if end:
                del piece[end:]
                yield number, piece
            if len(rest) > LONGEST_LINE:
                raise SourceError(
                    f"{path}: a line is longer than {LONGEST_LINE:,} bytes: is this a text file?"
                )
            if read == 0:
                break
        # Of a range in the middle, the line that is not ended belongs to the block it ends in.
        if rest and (stop is None or raw.tell() >= size):
            yield number, rest


def _fill(stream: Any, target: memoryview) -> int:
    """Bytes read into `target`: as many as it holds, unless the stream ends."""
    done = 0
    while done < len(target) and (read := stream.readinto(target[done:])):
        done += read
    return done


def _line_so_far(raw: IO[bytes], position: int) -> bytearray:
    """The bytes of a line before `position`, where `raw` then stands."""
    start, found = position, bytearray()
    while start > 0 and b"\n" not in found and len(found) <= LONGEST_LINE:
        step = min(start, 64 << 10)
        start -= step
        raw.seek(start)
        found = bytearray(raw.read(step)) + found
    raw.seek(position)
    return found[found.rfind(b"\n") + 1 :]
