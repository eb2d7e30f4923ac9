"""`recsys clean` lists and removes what killed jobs left and nothing refers to, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys import cli
from recsys.cleaning import survey
from recsys.training import run as run_module
from recsys.training.run import run_folder
from recsys_cython_ext.files import file_digest, in_use, lock_of, locked
from recsys_pipelines.preparation.prepared import Prepared

from ..conftest import Configure

DIGESTS = [f"{number:016x}" for number in range(1, 9)]


def write(path: Path, text: str = "x" * 100, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (then := time.time() - days * 86400, then))
    return path


def finished_run(root: Path, digest: str, prepared: str, days: float = 0, text: str = "name: a") -> Path:
    folder = root / "runs" / f"full-{digest}" / "seed-0"
    write(folder / "config.yaml", text, days)
    metrics = {"prepared": str((root / "prepared" / prepared).resolve())}
    write(folder / "metrics.json", json.dumps(metrics), days)
    return folder


def prepared_set(root: Path, name: str, days: float = 0) -> Path:
    write(root / "prepared" / name / "train" / "0000.arrow", days=days)
    write(root / "prepared" / name / "manifest.json", "{}", days)
    return root / "prepared" / name


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that hold one thing of every kind; those called kept are in use."""
    monkeypatch.chdir(tmp_path)
    prepared_set(tmp_path, f"kept-{DIGESTS[0]}")
    prepared_set(tmp_path, f"unused-{DIGESTS[1]}")
    write(tmp_path / "prepared" / f"killed-{DIGESTS[2]}" / "staged" / "part.arrow")
    write(tmp_path / "prepared" / f"generated-{DIGESTS[3]}.parquet")
    codes = f"tables: {{codes: runs/codes/{DIGESTS[4]}}}"
    finished_run(tmp_path, DIGESTS[0], f"kept-{DIGESTS[0]}", text=codes)
    runs = tmp_path / "runs"
    for digest in (DIGESTS[4], DIGESTS[5]):
        write(runs / "codes" / digest / "codes.bin")
    predictions = write(runs / "teachers" / f"{DIGESTS[6]}.parquet")
    write(predictions.with_name(f"{predictions.name}.xxh64"), file_digest(predictions))
    write(runs / "trials" / f"{DIGESTS[6]}.json", '{"end": null}')
    write(runs / "trials" / f"{DIGESTS[7]}.json", '{"end": "finished"}')
    write(runs / f"full-{DIGESTS[1]}" / "seed-3" / "checkpoints" / "step-1" / "tensors", "y" * 500)
    write(runs / f"full-{DIGESTS[0]}" / "seed-0" / f".metrics.json.{DIGESTS[0]}.tmp" / "metrics.json")
    write(runs / f"full-{DIGESTS[0]}" / ".seed-9.lock", "")
    write(runs / "mine" / "notes.txt")
    write(tmp_path / "prepared" / "mine.parquet")
    return tmp_path


LEFT = {
    f"runs/full-{DIGESTS[1]}/seed-3": "unfinished",
    f"prepared/killed-{DIGESTS[2]}": "unfinished",
    f"prepared/unused-{DIGESTS[1]}": "superseded",
    f"prepared/generated-{DIGESTS[3]}.parquet": "superseded",
    f"runs/codes/{DIGESTS[5]}": "superseded",
    f"runs/teachers/{DIGESTS[6]}.parquet": "superseded",
    f"runs/trials/{DIGESTS[6]}.json": "superseded",
    f"runs/full-{DIGESTS[0]}/seed-0/.metrics.json.{DIGESTS[0]}.tmp": "unfinished",
    f"runs/full-{DIGESTS[0]}/.seed-9.lock": "unfinished",
}


def clean(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, ["clean", "--json", *map(str, arguments)], catch_exceptions=False)
    return json.loads(result.stdout)


def reasons(result: Any) -> dict[str, str]:
    return {item["path"]: item["reason"] for item in result["leftovers"]}


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_names_of_files_are_those_of_runs() -> None:
    for name in ("METRICS", "SETTINGS", "CHECKPOINTS"):
        assert getattr(survey, name) == getattr(run_module, name)


def test_it_lists_and_removes_nothing_unless_told_to(root: Path) -> None:
    before = everything(root)
    result = clean()
    assert reasons(result) == LEFT
    assert everything(root) == before
    sizes = {item["path"]: item["bytes"] for item in result["leftovers"]}
    assert sizes[f"runs/full-{DIGESTS[1]}/seed-3"] == 500
    assert result["bytes"] == sum(sizes.values())
    assert result["removed"] == []
    printed = CliRunner().invoke(cli.app, ["clean"], catch_exceptions=False).stdout
    assert "Nothing was removed; --yes removes what is listed." in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_what_is_in_use_and_what_is_not_ours_stays(root: Path) -> None:
    result = clean("--yes")
    assert set(result["removed"]) == set(LEFT)
    assert result["kept"] == {}
    assert everything(root) == {
        f"prepared/kept-{DIGESTS[0]}/manifest.json",
        f"prepared/kept-{DIGESTS[0]}/train/0000.arrow",
        f"runs/full-{DIGESTS[0]}/seed-0/config.yaml",
        f"runs/full-{DIGESTS[0]}/seed-0/metrics.json",
        f"runs/codes/{DIGESTS[4]}/codes.bin",
        f"runs/trials/{DIGESTS[7]}.json",
        "runs/mine/notes.txt",
        "prepared/mine.parquet",
    }
    assert not (root / "runs" / f"full-{DIGESTS[1]}").exists()
    assert clean("--yes")["leftovers"] == []


def test_what_is_old_goes_only_where_it_is_asked_for_and_nothing_young_needs_it(tmp_path: Path) -> None:
    for number, days in ((0, 40), (1, 40), (2, 1)):
        prepared_set(tmp_path, f"log-{DIGESTS[number]}", days)
    old = finished_run(tmp_path, DIGESTS[0], f"log-{DIGESTS[0]}", days=40)
    start = finished_run(tmp_path, DIGESTS[1], f"log-{DIGESTS[1]}", days=40)
    text = f"training: {{start: {{run: runs/full-{DIGESTS[1]}/seed-0}}}}"
    finished_run(tmp_path, DIGESTS[2], f"log-{DIGESTS[1]}", days=1, text=text)
    places = ("--runs", tmp_path / "runs", "--prepared", tmp_path / "prepared")
    unused = str(tmp_path / "prepared" / f"log-{DIGESTS[2]}")
    assert reasons(clean(*places)) == {unused: "superseded"}
    assert reasons(clean(*places, "--older-than", "50d")) == {unused: "superseded"}
    expected = {
        str(old): "old",
        str(tmp_path / "prepared" / f"log-{DIGESTS[0]}"): "old",
        unused: "superseded",
    }
    assert reasons(clean(*places, "--older-than", "30d", "--yes")) == expected
    assert start.exists()
    assert not old.exists()
    with pytest.raises(ValueError, match="--older-than 'soon': give hours, days or weeks"):
        clean("--older-than", "soon")


def test_links_are_not_followed(root: Path) -> None:
    outside = root / "outside"
    prepared_set(outside, f"elsewhere-{DIGESTS[0]}")
    for place, name in (("prepared", f"link-{DIGESTS[0]}"), ("runs", f"link-{DIGESTS[0]}")):
        (root / place / name).symlink_to(outside / "prepared" / f"elsewhere-{DIGESTS[0]}")
    (root / "runs" / f".x.{DIGESTS[0]}.tmp").symlink_to(outside)
    (root / "runs" / ".y.lock").symlink_to(outside / "prepared" / f"elsewhere-{DIGESTS[0]}" / "manifest.json")
    (root / "runs" / f"full-{DIGESTS[1]}" / "seed-3" / "inside").symlink_to(outside)
    before = everything(outside)
    assert set(clean("--yes")["removed"]) == set(LEFT)
    assert everything(outside) == before
    assert (root / "runs" / f"link-{DIGESTS[0]}").is_symlink()


def test_a_killed_run_keeps_what_it_goes_on_with(root: Path, configure: Configure) -> None:
    config, unused = configure(), root / "prepared" / f"unused-{DIGESTS[1]}"
    folder = run_folder(config, Prepared(unused, None), root / "runs")  # type: ignore[arg-type]
    write(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    result = reasons(clean())
    assert result[str(folder.relative_to(root))] == "unfinished"
    assert str(unused.relative_to(root)) not in result


# ---- jobs at work

HOLD = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from recsys_cython_ext.files import in_use, locked
alone = lambda path: in_use(path, alone=True)
with ExitStack() as stack:
    for kind, path in zip(sys.argv[1::2], sys.argv[2::2]):
        stack.enter_context({"lock": locked, "use": in_use, "write": alone}[kind](Path(path)))
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def other_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", HOLD, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_run_in_progress_and_what_it_reads_survive(root: Path) -> None:
    run = root / "runs" / f"full-{DIGESTS[1]}" / "seed-3"
    with other_process("lock", lock_of(run)):
        result = clean("--yes")
        assert run.exists()
        assert (root / "prepared" / f"unused-{DIGESTS[1]}").exists(), "the run may read it"
        assert f"prepared/killed-{DIGESTS[2]}" in result["removed"]
        assert f"runs/codes/{DIGESTS[5]}" not in result["removed"]
    assert str(run.relative_to(root)) in clean("--yes")["removed"], "a lock dies with its process"


def test_a_training_that_is_cleaned_around_ends_as_any(
    configure: Configure, prepared: Prepared, tmp_path: Path
) -> None:
    from recsys.training.loop import Watch
    from recsys.training.train import train

    copied = Prepared.open(shutil.copytree(prepared.path, tmp_path / "prepared" / prepared.path.name))
    unused = prepared_set(tmp_path, f"unused-{DIGESTS[1]}")
    places = ("--runs", tmp_path / "runs", "--prepared", tmp_path / "prepared", "--older-than", "0h", "--yes")
    results = []

    def report(_: dict[str, Any]) -> None:
        results.append(clean(*places))

    run = train(configure({"training.epochs": 1}), copied, tmp_path / "runs", Watch(report=report))
    assert results
    assert all(result["removed"] == [] for result in results)
    assert unused.exists()
    assert run.checkpoint().folder.exists()
    assert run.rows("test") is not None
    assert set(clean(*places)["removed"]) == {str(run.path), str(copied.path), str(unused)}


def test_while_a_command_is_at_work_only_temporary_files_go(root: Path) -> None:
    with other_process("use", root / "runs", "use", root / "prepared"):
        result = clean("--yes")
    temporary = {path for path in LEFT if path.endswith((".tmp", ".lock"))}
    assert set(result["removed"]) == temporary
    assert set(result["kept"]) == set(LEFT) - temporary
    assert "a job is at work in" in next(iter(result["kept"].values()))


def test_what_a_job_is_writing_stays(root: Path) -> None:
    folder = root / "runs" / f"full-{DIGESTS[0]}" / "seed-0" / f".metrics.json.{DIGESTS[0]}.tmp"
    with other_process("write", folder, "lock", root / "prepared" / f"killed-{DIGESTS[2]}" / ".lock"):
        result = clean("--yes")
        assert folder.exists()
        assert (root / "prepared" / f"killed-{DIGESTS[2]}").exists()
    assert not result["kept"], "what is held is not even listed"


def test_jobs_hold_their_folders(tmp_path: Path) -> None:
    from recsys.console import bars

    a, b = tmp_path / "a", tmp_path / "b"
    with bars(a, b), bars(a), pytest.raises(TimeoutError), in_use(a, alone=True):
        pass
    with in_use(tmp_path / "a", alone=True):
        assert sorted(tmp_path.rglob("*")) == [a, b]


def test_two_at_once_remove_everything_once(root: Path) -> None:
    code = "import sys; from recsys.cli import app; app()"
    command = [sys.executable, "-P", "-c", code, "clean", "--yes", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    removed = [path for result in results for path in result["removed"]]
    assert set(removed) == set(LEFT)
    assert len([path for path in removed if not path.endswith((".tmp", ".lock"))]) == len(LEFT) - 2
    assert (root / "runs" / "mine" / "notes.txt").exists()
    with locked(root / "runs" / ".x.lock"):
        pass
