"""Text files, plain or compressed (.gz, .zst, .bz2), as blocks of whole lines."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from recsys_pipelines.sources.base import SourceError, reading, size_of
from recsys_pipelines.sources.location import Url

BLOCK = 8 << 20  # bytes read at once
LONGEST_LINE = 64 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # by the end of a name


def first_bytes(path: Path | Url) -> bytes:
    """Return the first line without its end, whatever is in it."""
    with closing(read_blocks(path)) as pieces:
        return bytes(next(pieces, (0, b""))[1].split(b"\n", 1)[0].removesuffix(b"\r"))


def numbered_lines(path: Path | Url, read_to: Callable[[float], None]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield blocks of lines without their ends, each with the 1-based number of its first line."""
    line = 1
    for _, block in read_blocks(path, read_to=read_to):
        lines = [text.removesuffix(b"\r") for text in bytes(block).removesuffix(b"\n").split(b"\n")]
        yield line, lines
        line += len(lines)


def read_blocks(
    path: Path | Url,
    numbers: tuple[int, int | None] = (0, None),
    block_size: int | None = None,
    read_to: Callable[[float], None] = lambda share: None,
) -> Generator[tuple[int, bytearray], None, None]:
    """Yield the bytes of a file in numbered blocks of whole lines; only the last may lack its line end.

    Args:
        path: The file.
        numbers: The first block and the one after the last. Block n holds the lines that end within the n-th `block_size`
            bytes, if any, so that some blocks of a file that is not compressed can be read alone.
        block_size: Bytes read at once, `BLOCK` unless given.
        read_to: Is called with the share of the file that has been read.

    Raises:
        SourceError: The file is damaged, or a line is longer than `LONGEST_LINE`.
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
    """Fill `target` unless the stream ends, and return how many bytes were read."""
    done = 0
    while done < len(target) and (read := stream.readinto(target[done:])):
        done += read
    return done


def _line_so_far(raw: IO[bytes], position: int) -> bytearray:
    """Return the bytes of a line before `position`, where `raw` then stands."""
    start, text = position, bytearray()
    while start > 0 and b"\n" not in text and len(text) <= LONGEST_LINE:
        step = min(start, 64 << 10)
        start -= step
        raw.seek(start)
        text = bytearray(raw.read(step)) + text
    raw.seek(position)
    return text[text.rfind(b"\n") + 1 :]
