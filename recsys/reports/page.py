"""One self-contained HTML page: sentences, tables and pictures, with nothing beside it; and how its numbers look."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from recsys.reports.sheet import Sheet
from recsys_cython_ext.files import write_text

matplotlib.use("Agg")

DAGGER = "†"  # beside what is not to be relied on

Picture = tuple[str, str, str]  # title, PNG in base64, what to see in it


def write_page(
    path: Path | str, title: str, texts: Sequence[str], sheets: Sequence[Sheet], pictures: Sequence[Picture]
) -> None:
    """Write a page of sentences, tables and pictures. The first text is the result."""
    write_html(path, "page.html.j2", title=title, texts=texts, sheets=sheets, pictures=pictures)


def write_html(path: Path | str, template: str, **values: Any) -> None:
    """Render a template of `templates`, and write the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recsys.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template(template).render(**values)
    write_text(html, Path(path))


def png(figure: Figure) -> str:
    """Return a figure as PNG in base64."""
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name such as "$x_{1" is no formula
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def number(value: float, sign: str = "") -> str:
    """Return a number with four digits, or five decimals where it is small."""
    return f"{value:{sign}.4g}" if abs(value) >= 0.1 else f"{value:{sign}.5f}"


def interval(ends: tuple[float, float], sign: str = "") -> str:
    """Return the ends of an interval as text."""
    return " to ".join(number(value, sign) for value in ends)


def share(value: float | None) -> str:
    """Return a share as a percentage, – where it is not known."""
    return "–" if value is None else f"{value:.2%}"
