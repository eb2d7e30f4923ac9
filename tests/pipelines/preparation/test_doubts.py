"""A vocabulary of which next to nothing is known is told, with share, examples and the likely cause."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.preparation.prepare import prepare

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
ROWS = 1000


def doubts(folder: Path, columns: dict[str, Any], feature: dict[str, Any], *, csv: bool = False) -> list[str]:
    table = pa.table({"label": np.arange(ROWS) % 2, **columns})
    path = folder / ("log.csv" if csv else "log.parquet")
    (pyarrow.csv.write_csv if csv else pq.write_table)(table, path)
    features = CONFIGS.validate_python([{"kind": "categorical", "names": ["c"], **feature}])
    data = DataConfig(source="table", path=path)
    first = prepare(data, features, folder / "prepared").manifest.doubts
    assert prepare(data, features, folder / "prepared").manifest.doubts == first
    return first


def names(form: str = "i{}") -> list[str]:
    return [form.format(n % 50) for n in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "lines", "cause"),
    [
        ("i{}", "i{} ", "its lines have blanks at its ends, without which 100% would be known"),
        ("i{}", "\ti{}", "its lines have blanks at its ends"),
        ("i{}", '"i{}"', "its lines have quotation marks"),
        ("i{}", "i{},shoes", "its lines have more than the id"),
        ("i{}", "I{}", "its lines have capitals"),
        ("I{}", "i{} ", "its lines have small letters"),
        ("{}", "{}.0", "its lines have '.0' after a number"),
        ("{}", "00{}", "its lines have zeros before a number"),
        ("i{}", "\u200bi{}", "its lines have invisible characters"),
        ("i{}  ", "i{}", "the column's values have blanks at its ends"),
        ("{}.0", "{}", "the column's values have '.0' after a number"),
        ("i{}", "other{}", "is it the file of another column, or of another log?"),
    ],
)
def test_the_likely_cause_is_named(values: str, lines: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("\n".join(lines.format(n) for n in range(50)) + "\n", encoding="utf-8")
    (told,) = doubts(tmp_path, {"c": names(values)}, {"vocabulary": str(tmp_path / "v.txt")})
    assert "feature 'c': 800 of its 800 values in training (100.0%) are unknown to the vocabulary" in told
    assert repr(lines.format(0)) in told
    assert "the data hold '" in told
    assert cause in told


def test_nearly_all_is_nine_of_ten(tmp_path: Path) -> None:
    for known, told in ((4, 1), (6, 0)):  # of 50 ids
        file = tmp_path / f"{known}.txt"
        file.write_text("\n".join(f"i{n}" for n in range(known)))
        folder = tmp_path / str(known)
        folder.mkdir()
        assert len(doubts(folder, {"c": names()}, {"vocabulary": str(file)})) == told


def test_lists_and_text_formats_have_examples_too(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("".join(f"i{n} \n" for n in range(50)))
    feature = {"vocabulary": str(tmp_path / "v.txt"), "multivalued": True, "separator": "|"}
    (told,) = doubts(tmp_path, {"c": names("i{0}|i{0}")}, feature, csv=True)
    assert "the data hold 'i0', line 1 of the file 'i0 '; likely its lines have blanks" in told


def test_integers_that_the_file_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("\n".join(str(n) for n in range(2, 52)))
    values = [1000 + n % 50 for n in range(ROWS)]
    (told,) = doubts(tmp_path, {"c": values}, {"vocabulary": str(tmp_path / "v.txt")})
    assert "the data hold 1000, line 1 of the file '2'" in told
    folder = tmp_path / "unsigned"
    folder.mkdir()
    large = pa.array([value + 2**63 for value in values], pa.uint64())
    (told,) = doubts(folder, {"c": large}, {"vocabulary": str(tmp_path / "v.txt")})
    assert f"the data hold {1000 + 2**63}, line 1" in told


def test_ids_to_keep_and_minimum_counts_can_leave_nothing_too(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    np.save(keep / "c.npy", np.arange(5))
    (told,) = doubts(tmp_path, {"c": names()}, {"keep": str(keep)})
    assert "`keep` leaves 0 of 50 ids" in told
    rare = [f"session {n // 2}" for n in range(ROWS)]
    folder = tmp_path / "rare"
    folder.mkdir()
    (told,) = doubts(folder, {"c": rare}, {"min_count": 5})
    assert "min_count 5 leaves 0 of 400 ids" in told


def test_what_is_known_or_missing_is_no_doubt(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("\n".join(f"i{n}" for n in range(50)))
    feature = {"vocabulary": str(tmp_path / "v.txt")}
    assert doubts(tmp_path, {"c": names()}, feature) == []
    folder = tmp_path / "missing"
    folder.mkdir()
    assert doubts(folder, {"c": pa.nulls(ROWS, pa.string())}, feature) == []
