"""The pages of the packages: what each exports, described by its docstrings (mkdocstrings)."""

from collections.abc import Callable
from importlib import import_module

PACKAGES = ("recsys", "recsys_tables", "recsys_pipelines", "recsys_cython_ext")


def page_of(package: str) -> Callable[[], str]:
    """Return what writes the page of a package."""
    return lambda: _page(package)


def _page(package: str) -> str:
    module = import_module(package)
    places = [f"::: {place}\n" for place in (_place(module, name) for name in module.__all__) if place]
    text = (module.__doc__ or "").strip()
    return f"# {package}\n\n{text}\n\nWhat follows can be imported from `{package}`.\n\n" + "\n".join(places)


def _place(module: object, name: str) -> str | None:
    """Return where a class or function is defined, None for constants."""
    value = getattr(module, name)
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else None
