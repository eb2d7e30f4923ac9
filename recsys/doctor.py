"""An installation is checked, for torch, torchrec and fbgemm come in matched sets, and a wrong one fails obscurely."""

import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "polars", "pyarrow", "numpy")
# torch minor -> minor of torchrec and fbgemm built for it
PAIRS = {"2.9": "1.4", "2.10": "1.5", "2.11": "1.6", "2.12": "1.7", "2.13": "1.8"}


@dataclass(frozen=True)
class Diagnosis:
    """Installed versions (None: absent) and what is wrong with them, each problem with its cure."""

    versions: dict[str, str | None]
    problems: list[str]

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def diagnose(*, imports: bool = True) -> Diagnosis:
    """Compare installed versions with the known pairs, then import torchrec in a process of its own."""
    versions = {name: _version(name) for name in PACKAGES}
    problems = find_problems(versions)
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
    return Diagnosis(versions, problems)


def find_problems(versions: dict[str, str | None]) -> list[str]:
    """Return every wrong or missing version among torch, torchrec and fbgemm, with the command that mends it."""
    torch = versions.get("torch")
    if torch is None:
        return [
            "torch is not installed: run `make install` (`make install DEVICE=gpu` on a machine with a GPU)"
        ]
    matching = PAIRS.get(_minor(torch))
    if matching is None:
        return [f"torch {torch} has no known torchrec and fbgemm; known: {', '.join(PAIRS)}"]
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
            "pip install ./packaging/fbgemm-gpu-cpu-alias"
        )
    return problems


def _minor(text: str) -> str:
    return ".".join(text.split("+")[0].split(".")[:2])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
