import pyarrow as pa
import pytest

from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.ngcf import Ngcf


def folder(path, train="0 0 1 2\n1 5 \n2\n", test="0 7\n1 \n"):
    (path / "train.txt").write_bytes(train.encode("latin-1"))
    if test is not None:
        (path / "test.txt").write_text(test)
    return path


def read(source, columns=Ngcf.columns):
    bad = Quarantine()
    chunks = list(source.chunks(columns, bad))
    table = pa.concat_tables(c.table for c in chunks)
    rows = [row for chunk in chunks for row in chunk.rows.tolist()]
    return table, rows, [line for chunk in chunks for line in chunk.lines.tolist()], bad


def test_lines_are_users_and_rows_interactions(tmp_path):
    source = open_source(DataConfig(source="ngcf", path=folder(tmp_path)))
    assert source.columns == Ngcf.columns
    table, rows, lines, bad = read(source)
    assert table.to_pydict() == {
        "user_id": ["0", "0", "0", "1", "0"],
        "item_id": ["0", "1", "2", "5", "7"],
        "split": ["train"] * 4 + ["test"],
        "label": ["1"] * 5,
    }
    assert rows == [0, 1, 2, 3, 4]
    assert lines == [1, 1, 1, 2, 1]
    assert bad.count == 0


def test_one_file(tmp_path):
    table, *_ = read(Ngcf(folder(tmp_path) / "test.txt"), ["split", "item_id"])
    assert table.to_pydict() == {"split": ["test"], "item_id": ["7"]}


def test_bad_numbers_and_lines(tmp_path):
    train = "0 1 x 2\n\nu 1 2 3\n3 4  5\r\n\xff 1\n 6 7\n8 1.5 -1"
    table, rows, lines, bad = read(Ngcf(folder(tmp_path, train, None)))
    assert table["user_id"].to_pylist() == ["0", "0", "3", "3", "6"]
    assert table["item_id"].to_pylist() == ["1", "2", "4", "5", "7"]
    assert rows == [0, 2, 5, 6, 8]
    assert lines == [1, 1, 4, 4, 6]
    assert sorted((e.row, e.line, e.field, e.value, e.reason) for e in bad.examples if e.field) == [
        (1, 1, "item_id", "x", "not a number"),
        (9, 7, "item_id", "1.5", "not a number"),
        (10, 7, "item_id", "-1", "not a number"),
    ]
    assert sorted((e.row, e.line, e.value, e.reason) for e in bad.examples if not e.field) == [
        (3, 2, "", "blank line"),
        (4, 3, "u 1 2 3", "the user is not a number"),
        (7, 5, r"\xff 1", "not UTF-8 text"),
    ]


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    train = "".join(f"{user} " + " ".join(map(str, range(user % 5))) + "\n" for user in range(200))
    want = read(Ngcf(folder(tmp_path, train)))
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 50)
    got = read(Ngcf(tmp_path))
    assert got[0].combine_chunks().equals(want[0].combine_chunks())
    assert got[1:3] == want[1:3]


def test_prepared(tmp_path):
    path = folder(tmp_path, "".join(f"{u} {u % 3} {u % 5}\n" for u in range(30)))
    data = DataConfig(source="ngcf", path=path)
    manifest = prepare(
        data, [CategoricalConfig(kind="categorical", names=("item_id",))], tmp_path / "out"
    ).manifest
    assert manifest.rows_in == manifest.rows_out == 61


def test_paths(tmp_path):
    with pytest.raises(SourceError, match=r"no train\.txt and no test\.txt"):
        Ngcf(tmp_path)
    with pytest.raises(SourceError, match="there are no rows"):
        read(Ngcf(folder(tmp_path, "1\n2 \n", None)))
    with pytest.raises(SourceError, match=r"'user'.*did you mean 'user_id'"):
        read(Ngcf(tmp_path), ["user"])
