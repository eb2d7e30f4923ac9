"""Pages whose text stands elsewhere in the repository: texts of its root and of the benchmarks, and the notebooks."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = {"benchmarks.md": "benchmarks/README.md", "changes.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
NOTEBOOKS = ("first_steps", "own_data", "judging")
ELSEWHERE = {**TEXTS, **{f"notebooks/{name}.md": f"notebooks/{name}.ipynb" for name in NOTEBOOKS}}


def on_the_site(markdown: str) -> str:
    """Return a page of docs/ with links to the site's pages, where it links files outside docs/ (as GitHub shows them)."""
    for uri, path in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{path}", f"]({uri}")
    return markdown


def _text(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"\]\((?:\.\./)?docs/([\w/.]+\.md)", r"](\1", text)


def _notebook(name: str) -> str:
    """Return a notebook's texts and code; what the code prints is seen by running it."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.insert(1, f"This page is `notebooks/{name}.ipynb`, which the tests execute.")
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    **{uri: partial(_text, path) for uri, path in TEXTS.items()},
    **{f"notebooks/{name}.md": partial(_notebook, name) for name in NOTEBOOKS},
}
