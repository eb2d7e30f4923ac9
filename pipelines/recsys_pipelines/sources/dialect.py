"""How the lines of a delimited file split into fields, and what keeps them from it."""

import csv
from dataclasses import dataclass

from recsys_cython_ext.text import TextScan
from recsys_pipelines.sources.blocks import LONGEST_LINE

UNIT_SEPARATOR = b"\x1f"  # stands for a delimiter of several bytes, which Arrow does not know
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
        """Return what keeps Arrow from splitting a line (without its end) into `width` fields, or None."""
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
        if not self._decodes(line):
            # Arrow cannot hand a line that is both too wide and no text to its handler.
            columns = len(self.fields(line.decode("latin-1")))
            return None if columns == width else wrong_width(columns, width)
        return None

    def suspicious(self, block: bytearray, look: TextScan) -> bool:
        """Tell whether any line of `block` could have a fault: a quick look that lets most blocks pass whole."""
        return bool(
            block.startswith((b"\n", b"\r\n"))
            or look.double_line_ends
            or look.carriage_returns != look.returns_before_line_end
            or (look.carriage_returns and b"\n\r\n" in block)
            or (self.byte != self.delimiter and look.special)
            or (self.quoted and look.quotes)
            or not (look.ascii or self._decodes(block))
        )

    def fields(self, line: str) -> list[str]:
        """Return the fields of one line. Raises csv.Error when its quotes do not match."""
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


def wrong_width(columns: int, width: int) -> str:
    """Return what is wrong with a line of so many columns, where there should be `width`."""
    return f"{columns} columns instead of {width}"
