"""Wrong pairs of torch, torchrec and fbgemm are named with their cure."""

import subprocess
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from recsys import doctor, machine
from recsys.doctor import PACKAGES, PAIRS, diagnose, fbgemm_pairs, find_problems, table_of
from recsys.machine import Machine, Speed

CPU = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0+cpu", "fbgemm-gpu-cpu": "1.8.0"}
GPU = {"torch": "2.13.0+cu129", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": None}


@pytest.mark.parametrize("versions", [CPU, GPU])
def test_a_matched_set_has_no_problems(versions: dict[str, str | None]) -> None:
    assert find_problems(versions) == []


@pytest.mark.parametrize(
    ("torch", "others"),
    [("2.9.1", "1.4.0"), ("2.10.0", "1.5.0"), ("2.11.0", "1.6.0"), ("2.12.0", "1.7.0"), ("2.14.1", "1.9.2")],
)
def test_the_older_pairs(torch: str, others: str) -> None:
    assert find_problems(dict.fromkeys(CPU, others) | {"torch": torch}) == []


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (
            {"torch": None},
            [
                "torch is not installed: run `make install` (`make install DEVICE=gpu` on a machine with a GPU)"
            ],
        ),
        (
            {"torch": "2.15.0"},
            [
                "torch 2.15.0 has no fbgemm yet: the newest pair known here is torch 2.14 with torchrec and fbgemm 1.9: "
                "pip install 'torch==2.14.*'"
            ],
        ),
        (
            {"torch": "2.1.0"},
            ["torch 2.1.0 has no known torchrec and fbgemm; known: 2.9, 2.10, 2.11, 2.12, 2.13, 2.14"],
        ),
        (
            {"torchrec": "1.7.0"},
            ["torch 2.13.0+cpu needs torchrec 1.8, found 1.7.0: pip install 'torchrec==1.8.*'"],
        ),
        (
            {"torchrec": None},
            ["torch 2.13.0+cpu needs torchrec 1.8, found None: pip install 'torchrec==1.8.*'"],
        ),
        (
            {"fbgemm-gpu-cpu": "1.5.0"},
            ["torch 2.13.0+cpu needs fbgemm-gpu-cpu 1.8, found 1.5.0: pip install 'fbgemm-gpu-cpu==1.8.*'"],
        ),
        (
            {"fbgemm-gpu": None},
            [
                "the distribution `fbgemm-gpu`, which torchrec asks for, is absent: on a machine without a GPU "
                "pip install ./packaging/fbgemm-gpu-cpu-alias/2.13"
            ],
        ),
        (
            {"fbgemm-gpu": None, "fbgemm-gpu-cpu": None},
            ["torch 2.13.0+cpu needs fbgemm-gpu 1.8, found None: pip install 'fbgemm-gpu==1.8.*'"],
        ),
    ],
)
def test_a_wrong_version_is_named_with_its_cure(change: dict[str, Any], problems: list[str]) -> None:
    assert find_problems(CPU | change) == problems


def test_both_of_a_pair_can_be_wrong() -> None:
    problems = find_problems(CPU | {"torch": "2.12.0"})
    assert [problem.split(",")[0] for problem in problems] == [
        "torch 2.12.0 needs torchrec 1.7",
        "torch 2.12.0 needs fbgemm-gpu-cpu 1.7",
    ]


def test_the_table_of_fbgemm_goes_before_ours() -> None:
    pairs = table_of(
        'import torch\n_fbgemm_torch_compat_table = {"2.0": "2.15", "1.9": "2.14"}\nraise SystemExit\n'
    )
    assert pairs == {"2.15": "2.0", "2.14": "1.9"}
    versions = dict.fromkeys(CPU, "2.0.1") | {"torch": "2.15.0"}
    assert find_problems(versions, PAIRS | pairs) == []
    assert table_of("x = 1") == {}


@pytest.mark.parametrize(
    "source", ["_fbgemm_torch_compat_table = open('x')", "def (", "_fbgemm_torch_compat_table = 3"]
)
def test_a_table_that_is_no_plain_dict_is_left_out(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "__init__.py").write_text(source)
    spec = spec_from_file_location("fbgemm_gpu", tmp_path / "__init__.py")
    monkeypatch.setattr(doctor, "find_spec", lambda name: spec)
    assert fbgemm_pairs() == {}


def test_nothing_of_torch_is_an_installation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    found = diagnose()
    assert found.problems == []
    assert "pip install 'recsys-embedding-tables[cpu]'" in found.notes[0]


def test_this_installation_is_sound() -> None:
    found = diagnose(imports=False)
    assert found.problems == []
    assert set(found.versions) == set(PACKAGES)
    assert found.to_dict() == {"versions": found.versions, "problems": [], "notes": [], "machine": None}


def test_a_sound_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Machine((Speed(1, 100.0, 150.0, 1e8),))
    monkeypatch.setattr(machine, "measure", lambda: measured)
    found = diagnose(imports=False, measures=True)
    assert found.machine is measured
    assert found.to_dict()["machine"] == measured.to_dict()
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert diagnose(measures=True).machine is None, "torch is not there"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Traceback\nImportError: undefined symbol: _Zx\n", "ImportError: undefined symbol: _Zx"),
        ("", "exit status -11"),
    ],
)
def test_an_import_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    def run(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(args, -11, "", text)

    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert f"torchrec does not import ({shown})" in diagnose().problems[0]
