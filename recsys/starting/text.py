"""Values and names of a file, for a message, a comment or YAML: nothing in them can end a line or begin a key."""

import re
from collections.abc import Iterable
from itertools import islice

import yaml

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")  # needs no quotes in YAML, if it reads as itself
MOST_CHARACTERS = 60
MOST_LISTED = 12


def one_line(value: object, most: int = MOST_CHARACTERS) -> str:
    """Return a value as printable text of one line, in quotes where it is no plain word."""
    shown = printable(value, most)
    return shown if re.fullmatch(r"[\w./%+:@-]+…?", shown) else f"'{shown}'"


def printable(value: object, most: int = 10_000) -> str:
    """Return a value as printable text of one line, cut to a number of characters."""
    text = str(value)
    cut = text[:most] + ("…" if len(text) > most else "")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut
    )


def listed(values: Iterable[object]) -> str:
    """Return some values in a line: the first ones, and how many more there are."""
    values = list(values)
    shown = [one_line(value) for value in islice(values, MOST_LISTED)]
    rest = len(values) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def scalar(text: str) -> str:
    """Return a text as a YAML scalar of one line, which reads as this text wherever it stands."""
    if PLAIN.fullmatch(text) and yaml.safe_load(text) == text and text.lower() not in ("y", "n"):
        return text
    dumped: str = yaml.safe_dump(text, default_style='"', width=2**31, allow_unicode=True)
    return dumped.strip()
