"""Delimited text, plain or compressed (.gz, .zst): one row is one line, and every field is a string.

Lines are cut here and fields by Arrow. A quoted field cannot run over the end of its line: allowing it
would let one stray quote swallow the rows that follow, so such lines go to quarantine.
"""

import csv
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from recsys_cython_ext.text import TextScan, scan
from recsys_pipelines.ordered import ordered
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import (
    Chunk,
    SourceError,
    existing_file,
    reading,
    refuse_duplicates,
    require,
)
from recsys_pipelines.sources.location import Place, Url
from recsys_pipelines.sources.text import utf8

BLOCK = 8 << 20  # bytes read at once
LONGEST_LINE = 64 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}  # by the end of a name
UNIT_SEPARATOR = b"\x1f"  # stands for a delimiter of several bytes, which Arrow does not know
_WIDTH = "{} columns instead of {}"


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

    def fault(self, line: bytes, width: int) -> str | None:
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

    def suspicious(self, block: bytes, seen: TextScan) -> bool:
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

    def _decodes(self, text: bytes) -> bool:
        try:
            return text.isascii() or bool(text.decode(self.encoding))
        except UnicodeDecodeError:
            return False


TAB = Dialect(b"\t")
COMMA = Dialect(b",", quoted=True)


class DelimitedFile:
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
        self.names = list(map(rename, self.first_line() if names is None else names))
        refuse_duplicates(self.names, self.path)
        self.schema = pa.schema([(name, pa.string()) for name in self.names])

    def first_line(self) -> list[str]:
        """The fields of the first line, without surrounding spaces."""
        line = first_bytes(self.path)
        if not line:
            raise SourceError(f"{self.path}: the first line is empty: copy or export the file again")
        try:
            return [field.strip() for field in self._dialect.fields(line.decode(self._dialect.encoding))]
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{self.path}: the first line is unreadable ({error}): correct it") from error

    def chunks(
        self, columns: Sequence[str], quarantine: Quarantine, first_row: int = 0
    ) -> Generator[Chunk, None, int]:
        """As `File.chunks`; a block of lines is a chunk."""
        columns = list(dict.fromkeys(columns))
        require(columns, self.names, self.path)
        row_of_line = first_row - 1 - self._header_lines
        end = 1 + self._header_lines

        def parsed(block: _Block) -> tuple[Chunk | None, Quarantine]:
            bad = Quarantine()
            text, lines, kind = block.text, block.lines, pa.string()
            if self._dialect.suspicious(text, block.seen):  # it may hold fields that are no text
                text, lines = self._without_faults(block, row_of_line, bad)
                kind = pa.binary()
            if not len(lines):
                return None, bad
            return self._parsed(text, lines, columns, kind, row_of_line, bad), bad

        def counted() -> Iterator[_Block]:
            nonlocal end
            for block in self._numbered_blocks():
                end = block.line + block.count
                yield block

        for chunk, bad in ordered(parsed, counted()):
            quarantine.merge(bad)
            if chunk is not None:
                yield chunk
        return end - 1 - self._header_lines

    def _numbered_blocks(self) -> Iterator["_Block"]:
        """Blocks of rows, without the header."""
        line = 1
        for text in blocks(self.path):
            if line == 1 and self._header_lines:
                text, line = text.partition(b"\n")[2], 2
            seen = scan(text, self._dialect.byte)
            block = _Block(text, line, seen.line_ends + (text[-1:] not in (b"", b"\n")), seen)
            yield block
            line += block.count

    def _without_faults(
        self, block: "_Block", row_of_line: int, quarantine: Quarantine
    ) -> tuple[bytes, NDArray[np.int64]]:
        """The lines that can be split, and their numbers [B]."""
        good, kept = [], []
        for number, text in zip(block.lines.tolist(), block.text.split(b"\n"), strict=False):
            fault = self._dialect.fault(text.removesuffix(b"\r"), len(self.names))
            if fault is None:
                good.append(text)
                kept.append(number)
            else:
                quarantine.add(str(self.path), number + row_of_line, number, None, text, fault)
        return b"\n".join(good), np.array(kept, np.int64)

    def _parsed(
        self,
        block: bytes,
        lines: NDArray[np.int64],
        columns: list[str],
        kind: pa.DataType,
        row_of_line: int,
        quarantine: Quarantine,
    ) -> Chunk:
        """Fields of `lines` [B]; lines of the wrong width and fields that are not text go to quarantine."""
        if self._dialect.byte != self._dialect.delimiter:
            block = block.replace(self._dialect.delimiter, self._dialect.byte)
        if self._dialect.encoding != "utf-8":
            block = block.decode(self._dialect.encoding).encode()
        whole = np.ones(len(lines), bool)

        def wrong_width(row: pa_csv.InvalidRow) -> str:
            place = row.number - 1
            whole[place] = False
            reason = _WIDTH.format(row.actual_columns, row.expected_columns)
            number = int(lines[place])
            quarantine.add(str(self.path), number + row_of_line, number, None, row.text, reason)
            return "skip"

        with reading(self.path, "text"):
            table = pa_csv.read_csv(
                pa.BufferReader(block),
                pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=self.names),
                pa_csv.ParseOptions(
                    delimiter=self._dialect.byte.decode(),
                    quote_char='"' if self._dialect.quoted else False,
                    ignore_empty_lines=False,
                    invalid_row_handler=wrong_width,
                ),
                pa_csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, kind),
                    check_utf8=False,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        lines = lines[whole]
        if table.num_rows != len(lines):
            raise SourceError(f"{self.path}: lines {lines[0]} to {lines[-1]} do not split into rows")
        raw = Chunk(table, lines + row_of_line, str(self.path), lines)
        return _decoded(raw, quarantine) if kind == pa.binary() else raw


@dataclass(frozen=True)
class _Block:
    """Whole lines of a file: the first one's number, how many there are, and what a quick look saw."""

    text: bytes
    line: int
    count: int
    seen: TextScan

    @property
    def lines(self) -> NDArray[np.int64]:
        """Their numbers."""
        return np.arange(self.line, self.line + self.count)


def _decoded(chunk: Chunk, quarantine: Quarantine) -> Chunk:
    """Binary columns as strings; rows with a value that is not UTF-8 go to quarantine."""
    good = np.ones(len(chunk.rows), bool)
    strings = {}
    for name in chunk.table.column_names:
        column = chunk.table[name].combine_chunks()
        strings[name], bad = utf8(column)
        chunk.report(bad & good, name, column, "not UTF-8 text", quarantine)
        good &= ~bad
    return Chunk(pa.table(strings), chunk.rows, chunk.file, chunk.lines).keep(good)


def first_bytes(path: Path | Url) -> bytes:
    """The first line without its end, whatever is in it."""
    with closing(blocks(path)) as pieces:
        return next(pieces, b"").split(b"\n", 1)[0].removesuffix(b"\r")


def numbered_lines(path: Path | Url) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of lines without their ends, each with the 1-based number of its first line."""
    line = 1
    for block in blocks(path):
        lines = [text.removesuffix(b"\r") for text in block.removesuffix(b"\n").split(b"\n")]
        yield line, lines
        line += len(lines)


def blocks(path: Path | Url) -> Generator[bytes, None, None]:
    """The bytes of a file in pieces of whole lines; only the last may lack its line end."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    with (
        reading(path, "text or compressed text"),
        path.open("rb") as raw,
        pa.input_stream(raw, compression=compression) as stream,
    ):
        rest = b""
        piece = stream.read(BLOCK).removeprefix(b"\xef\xbb\xbf")  # the mark some editors put first
        while piece:
            end = piece.rfind(b"\n") + 1
            if end:
                yield rest + piece[:end]
                rest = piece[end:]
            else:
                rest += piece
            if len(rest) > LONGEST_LINE:
                raise SourceError(
                    f"{path}: a line is longer than {LONGEST_LINE:,} bytes: is this a text file?"
                )
            piece = stream.read(BLOCK)
        if rest:
            yield rest
