"""The notebooks run from top to bottom, and say what they are there to show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SHOWN = {
    "first_steps": ("unified", "in AUC", "torch.Size([2, 16])"),
    "own_data": ("9600", "20% of the full table", "in AUC"),
    "judging": ("new is better than old in AUC", "same is not told apart from old", "True"),
}


def test_every_notebook_is_executed() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS.glob("*.ipynb")} == SHOWN.keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_and_shows_what_it_is_about(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    for text in SHOWN[name]:
        assert text in shown
