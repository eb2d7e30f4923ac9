"""An installation is checked, for torch, torchrec and fbgemm come in matched sets, and a wrong one fails obscurely."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_cython_ext.extras import install_hint

if TYPE_CHECKING:
    from recsys.machine import Machine

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "polars", "pyarrow", "numpy")
# torch minor -> minor of torchrec and fbgemm built for it
PAIRS = {"2.9": "1.4", "2.10": "1.5", "2.11": "1.6", "2.12": "1.7", "2.13": "1.8", "2.14": "1.9"}
_TABLE = "_fbgemm_torch_compat_table"  # of fbgemm, from 1.9 on: its minor -> torch's


@dataclass(frozen=True)
class Diagnosis:
    """Installed versions (None: absent), what is wrong with them, each problem with its cure, and what is left out.

    machine: how fast it is, where torch can be used and it was measured.
    """

    versions: dict[str, str | None]
    problems: list[str]
    notes: list[str] = field(default_factory=list)
    machine: "Machine | None" = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        machine = None if self.machine is None else self.machine.to_dict()
        return {
            "versions": self.versions,
            "problems": self.problems,
            "notes": self.notes,
            "machine": machine,
        }


def diagnose(*, imports: bool = True, measures: bool = False) -> Diagnosis:
    """Compare installed versions with the known pairs, then import torchrec in a process of its own.

    With `measures`, the machine is measured where nothing is wrong.
    """
    versions = {name: _version(name) for name in PACKAGES}
    if versions["torch"] is None and versions["torchrec"] is None:
        return Diagnosis(
            versions, [], [f"tables, training and serving of models are left out: {install_hint('torch')}"]
        )
    problems = find_problems(versions, PAIRS | fbgemm_pairs())
    if imports and not problems:
        command = [sys.executable, "-c", "import torchrec, fbgemm_gpu"]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            # a crash leaves no text
            last = (outcome.stderr.strip().splitlines() or [f"exit status {outcome.returncode}"])[-1]
            problems.append(
                f"torchrec does not import ({last}); an 'undefined symbol' means that fbgemm was built for "
                "another torch: reinstall torch, torchrec and fbgemm as one of the pairs of the README"
            )
    if measures and not problems:
        from recsys.machine import measure  # here, for it imports torch

        return Diagnosis(versions, problems, [], measure())
    return Diagnosis(versions, problems, [])


def find_problems(versions: Mapping[str, str | None], pairs: Mapping[str, str] = PAIRS) -> list[str]:
    """Return every wrong or missing version among torch, torchrec and fbgemm, with the command that mends it."""
    torch = versions.get("torch")
    if torch is None:
        return [
            "torch is not installed: run `make install` (`make install DEVICE=gpu` on a machine with a GPU)"
        ]
    matching = pairs.get(_minor(torch))
    if matching is None:
        return [_unpaired(torch, pairs)]
    problems = []
    fbgemm = "fbgemm-gpu-cpu" if versions.get("fbgemm-gpu-cpu") else "fbgemm-gpu"
    for name in ("torchrec", fbgemm):
        installed = versions.get(name)
        if installed is None or _minor(installed) != matching:
            problems.append(
                f"torch {torch} needs {name} {matching}, found {installed}: pip install '{name}=={matching}.*'"
            )
    if versions.get("fbgemm-gpu") is None and fbgemm == "fbgemm-gpu-cpu":
        problems.append(
            "the distribution `fbgemm-gpu`, which torchrec asks for, is absent: on a machine without a GPU "
            f"pip install ./packaging/fbgemm-gpu-cpu-alias/{_minor(torch)}"
        )
    return problems


def fbgemm_pairs() -> dict[str, str]:
    """Return the pairs that the installed fbgemm names, torch minor -> its own; none where it names none.

    Its source is parsed and not imported, for an import is what fails where it was built for another torch.
    """
    found = find_spec("fbgemm_gpu")
    if found is None or found.origin is None:
        return {}
    try:
        return table_of(Path(found.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, TypeError, ValueError):
        return {}


def table_of(source: str) -> dict[str, str]:
    """Return the pairs that a source assigns to the table of fbgemm, torch minor -> fbgemm minor.

    Raises SyntaxError or ValueError where it is no Python, or the table no plain dict.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == _TABLE for t in node.targets
        ):
            table = ast.literal_eval(node.value)
            return {str(torch): str(fbgemm) for fbgemm, torch in dict(table).items()}
    return {}


def _unpaired(torch: str, pairs: Mapping[str, str]) -> str:
    """Say that no fbgemm is known for a torch: none yet where it is newer than all pairs."""
    newest = max(pairs, key=_number)
    if _number(_minor(torch)) > _number(newest):
        return (
            f"torch {torch} has no fbgemm yet: the newest pair known here is torch {newest} with torchrec and fbgemm "
            f"{pairs[newest]}: pip install 'torch=={newest}.*'"
        )
    return f"torch {torch} has no known torchrec and fbgemm; known: {', '.join(sorted(pairs, key=_number))}"


def _number(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split(".") if part.isdigit())


def _minor(text: str) -> str:
    return ".".join(text.split("+")[0].split(".")[:2])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
