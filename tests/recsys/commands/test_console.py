"""What commands say where there is no terminal, no reader, or no stream at all."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys import console
from recsys.reports.sheet import Sheet


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(console.err, "print", lambda text, **_: lines.append(text))
    return lines


def test_without_a_terminal_progress_is_lines(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.bars() as show:
        for step in range(1, 3001):
            now = step / 100
            show("epoch 1", step, 3000, "9 samples/s")
            show("trials", step // 1000, None)
        show("bootstrap", 0, 2)
        show("bootstrap", 2, 2)
        show("bootstrap", 2, 2)
    assert said == [
        "epoch 1: 1,001 of 3,000, 9 samples/s",
        "trials: 1",
        "epoch 1: 2,001 of 3,000, 9 samples/s",
        "trials: 2",
        "epoch 1: 3,000 of 3,000, 9 samples/s",
        "bootstrap: 2 of 2",
        "trials: 3",
        "bootstrap: 2 of 2",
    ]


def test_a_total_that_moves_with_what_is_done_is_no_flood(said: list[str]) -> None:
    with console.bars() as show:
        for rows in range(100, 10_000, 100):
            show("read", rows, rows)
    assert said == ["read: 100 of 100", "read: 9,900 of 9,900"]


def test_where_it_was_is_said_when_it_is_interrupted(said: list[str]) -> None:
    def interrupted() -> None:
        with console.bars() as show:
            show("read", 7, 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "read: 7 of 100" in said
    assert any("the same command goes on" in line for line in said)


# ---- streams

ENDS = re.compile(r"Traceback|Exception ignored|Error")


@pytest.mark.parametrize(
    ("redirected", "codes"),
    [
        ("| true", (0, 1)),
        ("--json | true", (0, 1)),
        ("2>&1 | true", (0, 1)),
        (">&-", (0,)),
        ("2>&-", (0,)),
        ("--json >&- 2>&-", (0,)),
        (">&- 2>&- <&-", (0,)),
    ],
)
def test_a_closed_stream_is_no_traceback(redirected: str, codes: tuple[int, ...], tmp_path: Path) -> None:
    line = f"set -o pipefail; {sys.executable} -P -m recsys.cli doctor --no-speed {redirected}; echo code $? >code"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not ENDS.search(done.stdout + done.stderr)
    assert int((tmp_path / "code").read_text().split()[1]) in codes


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Libraries write to number 2 whatever lies there."""
    code = (
        "import os, json, recsys.console\n"
        "numbers = [os.open('file', os.O_CREAT | os.O_RDWR) for _ in range(2)]\n"
        "os.write(2, b'lost'); print(numbers)\n"
        "open('numbers', 'w').write(json.dumps(numbers))"
    )
    line = f'{sys.executable} -P -c "$CODE" >&- 2>&- <&-'
    subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path, env={**os.environ, "CODE": code})
    assert min(json.loads((tmp_path / "numbers").read_text())) > 2
    assert (tmp_path / "file").read_bytes() == b""


KILLED = """
import multiprocessing, os, time, signal
from concurrent.futures import ProcessPoolExecutor
from recsys.comparison.pool import _end_with_parent, _silence_tracker

if __name__ == "__main__":
    _silence_tracker()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        pool.submit(abs, 1).result()
        os.kill(os.getpid(), signal.{how})
        time.sleep(60)
"""


@pytest.mark.parametrize("how", [pytest.param("SIGKILL", marks=pytest.mark.slow), "SIGINT"])
def test_a_killed_pool_leaves_no_warning_of_semaphores(how: str, tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED.format(how=how))
    command = [sys.executable, "killed.py"]
    with (tmp_path / "said").open("w") as said:
        assert subprocess.run(command, cwd=tmp_path, stderr=said, check=False).returncode != 0
    for _ in range(20):  # the process that clears up outlives it
        time.sleep(0.1)
    assert "leaked" not in (tmp_path / "said").read_text()


# ---- one table, and the rest with --details


def wide(columns: int) -> Sheet:
    numbers = tuple(f"+0.{column:04d} to +0.9999" for column in range(columns))
    headers = ("arm", "metric", *(f"column {column}" for column in range(columns)))
    return Sheet("Wide", headers, [("unified", "AUC", *numbers)], "A note.", keys=2)


def printed(capsys: pytest.CaptureFixture[str], *sheets: Sheet, details: bool) -> str:
    console.out.file = None  # type: ignore[assignment]
    console.print_result("The answer.", sheets, details, ["A sentence."])
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [1, 4, 5, 12])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_cut(
    columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, wide(columns), details=False)
    assert max(map(len, text.splitlines())) <= console.WIDTH
    assert all(f"+0.{column:04d} to +0.9999" in text for column in range(columns)), "an interval is one line"
    assert text.count("unified") == text.count("AUC") == text.count("┏"), "its row is named again"
    assert text.count("Wide") == text.count("A note.") == 1


def test_long_texts_are_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Sheet("Why", ("arm", "reason", "rows"), [("a", "word " * 60, "1"), ("b" * 130, "short", "2")])
    text = printed(capsys, sheet, details=False)
    assert max(map(len, text.splitlines())) <= console.WIDTH
    assert text.count("word") == 60
    assert text.count("b") >= 130


def test_details_come_before_the_one_table_and_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    others = [Sheet(f"other {number}", ("a", "b"), [("1", "2")]) for number in range(7)]
    short = printed(capsys, wide(1), *others, details=False)
    assert short.count("┏") == 1
    named = "With --details: other 0; other 1; other 2; other 3; other 4; and 2 more."
    assert short.splitlines()[-2:] == [named, "The answer."]
    full = printed(capsys, wide(1), *others, details=True)
    places = [full.index(text) for text in ("A sentence.", "other 0", "other 6", "Wide", "The answer.")]
    assert places == sorted(places)
    assert full.count("┏") == 8
