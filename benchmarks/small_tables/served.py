"""What arms take to serve: each exported with rows of int8 and int4, and what that does to its AUC."""

import json
import tempfile
from pathlib import Path
from typing import Any

from recsys.serving.export import check, export
from recsys.training.run import Run
from recsys_cython_ext.files import write_json
from recsys_tables.serving.quantise import Dtype

HARMLESS = 0.0002  # AUC that rows of fewer bits may cost
SMALLER: tuple[Dtype, ...] = ("int8", "int4")


def served(run: Run) -> dict[str, dict[str, float]]:
    """Return, for each smaller type of rows, the bytes to serve a run and what that changes of its test AUC."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in SMALLER:
            out = Path(folder) / dtype
            size = export(run, out, dtype).bytes.serving
            found[dtype] = {"bytes": size, "change": check(run, out)["auc"] - run.metrics["test"]["auc"]}
    return found


def smallest(of_types: dict[str, dict[str, float]]) -> tuple[str, dict[str, float]]:
    """Return the type of rows that takes the fewest bytes and costs no AUC to speak of, or else the least."""
    harmless = {dtype: found for dtype, found in of_types.items() if found["change"] > -HARMLESS}
    if not harmless:
        return max(of_types.items(), key=lambda item: item[1]["change"])
    return min(harmless.items(), key=lambda item: item[1]["bytes"])


def of_arms(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what is served of the first run of every arm that trained, kept in `folder`."""
    folder.mkdir(exist_ok=True)
    found = {}
    for title, arm in told.items():
        file = folder / f"{title}.json"
        if arm["trials"] and not file.exists():
            write_json(served(Run.open(arm["runs"][0][0])), file)
        if file.exists():
            found[title] = json.loads(file.read_text())
    return found
