"""Hooks of MkDocs: the pages that are generated from the code, and those whose text stands elsewhere in the repository."""

from collections.abc import Callable
from typing import Any

from mkdocs.structure.files import File, Files
from reference import commands, elsewhere, experiment, python, schemes

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands.page,
    "reference/experiment.md": experiment.page,
    "reference/schemes.md": schemes.page,
    **{f"reference/{package}.md": python.page_of(package) for package in python.PACKAGES},
    **elsewhere.PAGES,
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for uri, page in PAGES.items():
        files.append(File.generated(config, uri, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to files outside docs/ lead to their pages."""
    return elsewhere.on_the_site(markdown)
