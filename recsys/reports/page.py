"""One self-contained HTML page: sentences, tables and pictures, with nothing beside it; and how its numbers look."""

import base64
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from recsys.reports.sheet import Sheet
from recsys_cython_ext.extras import install_hint
from recsys_cython_ext.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    if find_spec("matplotlib") is None:
        values["no_pictures"] = f"No pictures: {install_hint('matplotlib')}."
    html = environment.get_template(template).render(**values)
    write_text(html, Path(path))


def drawn(draw: Callable[[], list[Picture]]) -> list[Picture]:
    """Return the pictures that `draw` makes: none without matplotlib, and the page says so."""
    try:
        return draw()
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return []


def png(figure: "Figure") -> str:
    """Return a figure as PNG in base64."""
    from matplotlib.text import Text

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
