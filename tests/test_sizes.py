"""Source files and functions stay short enough to be read at one sitting."""

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FOLDERS = ("recsys", "tables/recsys_tables", "pipelines/recsys_pipelines", "cython_ext/recsys_cython_ext")
SOURCES = [
    file for folder in FOLDERS for ending in ("*.py", "*.pyx") for file in (ROOT / folder).rglob(ending)
]


def test_no_file_is_over_350_lines() -> None:
    lines = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert len(lines) > 300
    assert {file: count for file, count in lines.items() if count > 350} == {}


def test_no_function_is_over_60_lines_and_most_are_short() -> None:
    lines = {}
    for file in SOURCES:
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines[f"{file}:{node.lineno} {node.name}"] = (
                        (node.end_lineno or node.lineno) - node.lineno + 1
                    )
    assert {place: count for place, count in lines.items() if count > 60} == {}
    assert median(lines.values()) < 10
