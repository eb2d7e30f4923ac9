import csv
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys_pipelines import quarantine as module
from recsys_pipelines.quarantine import Quarantine, TooManyBadRows


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_counts_all_and_keeps_some(monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 5)
    bad = Quarantine()
    bad.add_many("a.csv", np.arange(100), np.arange(100) + 1, "i1", pa.array(["x"] * 100), "not a number")
    bad.add("a.csv", 7, None, None, None, "blank line")
    assert bad.count == 101
    assert len(bad.examples) == 5
    assert bad.reasons == {("i1", "not a number"): 100, (None, "blank line"): 1}


def test_within_the_limit_nothing_is_raised():
    bad = Quarantine(limit=0.5)
    bad.check(0)
    bad.add("a.csv", 0, 1, "label", "2", "label is neither 0 nor 1")
    bad.check(2)


def test_message_names_share_limit_and_three_commonest_reasons(monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 1)
    bad = Quarantine(limit=0.01)
    for number, (reason, count) in enumerate([("rare", 1), ("often", 4), ("common", 3), ("some", 2)]):
        for row in range(count):
            bad.add("f.csv", row, row + 10 * number, "i1", f"v{number}", reason)
    with pytest.raises(TooManyBadRows) as caught:
        bad.check(100)
    message = str(caught.value)
    assert "10 of 100 rows (10.00%)" in message
    assert "1.00%" in message
    assert message.index("often") < message.index("common") < message.index("some")
    assert "rare" not in message
    assert "f.csv, line 10: v1" in message
    assert isinstance(caught.value, ValueError)


def test_limit_zero_lets_no_row_pass():
    bad = Quarantine(limit=0)
    bad.check(10)
    bad.add("a", 0, None, None, "", "r")
    with pytest.raises(TooManyBadRows):
        bad.check(10**9)


def test_merge_is_the_same_as_one_quarantine(monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 3)
    one, parts = Quarantine(0), [Quarantine(0), Quarantine(0)]
    for number, part in enumerate(parts):
        for row in range(4):
            for target in (one, part):
                target.add(f"part{number}", row, None, f"field{number}", row, f"reason{number}")
    merged = Quarantine(0)
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert (merged.count, merged.reasons, merged.examples) == (one.count, one.reasons, one.examples)
    with pytest.raises(TooManyBadRows, match="part1, row 0: 0"):
        merged.check(8)


def test_written_file_has_one_line_a_row(tmp_path):
    bad = Quarantine()
    bad.add("a,b.csv", 3, 5, "c1", b"\xff\xfe", "not UTF-8 text")
    bad.add("a.csv", 4, None, None, 'x\ny\r"\x00' + "z" * 500, "blank line")
    path = bad.write(tmp_path / "new")
    assert path.name == "quarantine.csv"
    assert [p.name for p in path.parent.iterdir()] == ["quarantine.csv"]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    first, second = rows_of(path)
    assert first == {
        "file": "a,b.csv",
        "row": "3",
        "line": "5",
        "field": "c1",
        "value": r"\xff\xfe",
        "reason": "not UTF-8 text",
    }
    assert second["value"].startswith(r"x\ny\r" + '"' + r"\x00z")
    assert len(second["value"]) < 150
    assert bad.write(tmp_path / "new") == path  # replaces


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    bad = Quarantine()
    path = bad.write(tmp_path)
    before = path.read_bytes()
    bad.add("a", 0, 1, "f", "v", "r")

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        bad.write(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
