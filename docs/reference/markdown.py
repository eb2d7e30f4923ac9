"""Markdown that is written by several generated pages."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, in whose cells a bar is no border."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Return a text as code."""
    return f"`{text}`"


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter and ends with a full stop, where it has words."""
    text = " ".join(text.split())
    return "" if not text else text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
