import pyarrow as pa
import pytest

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError
from recsys_pipelines.sources.recbole import RecBole

INTER = "user_id:token\titem_id:token\trating:float\n1\t10\t3\n2\t11\t4.5\n1\t12\t\n"
USER = "user_id:token\tage:float\tjob:token\n1\t24\tcook\n2\t\twriter\n"
ITEM = 'item_id:token\ttitle:token_seq\tvec:float_seq\n10\t"Toy Story\t0.5 1\n11\t\t2\n'


def folder(path, **files):
    for suffix, text in ({"inter": INTER, "user": USER, "item": ITEM} | files).items():
        if text is not None:
            (path / f"ml.{suffix}").write_text(text)
    return path


def read(source, columns):
    bad = Quarantine()
    chunks = list(source.chunks(columns, bad))
    return pa.concat_tables(c.table for c in chunks), bad


def test_joined_and_typed(tmp_path):
    source = RecBole(folder(tmp_path))
    assert source.columns == ("user_id", "item_id", "rating", "age", "job", "title", "vec")
    table, bad = read(source, ["title", "job", "rating", "vec", "user_id", "age"])
    assert table.to_pydict() == {
        "title": [['"Toy', "Story"], None, None],
        "job": ["cook", "writer", "cook"],
        "rating": ["3", "4.5", None],
        "vec": [["0.5", "1"], ["2"], None],
        "user_id": ["1", "2", "1"],
        "age": ["24", None, "24"],
    }
    assert bad.count == 0


def test_attributes_are_optional(tmp_path):
    source = RecBole(folder(tmp_path, user=None, item=None))
    assert source.columns == ("user_id", "item_id", "rating")
    assert read(source, ["item_id"])[0]["item_id"].to_pylist() == ["10", "11", "12"]


def test_bad_lines(tmp_path):
    source = RecBole(folder(tmp_path, inter=INTER + "\n1\t2\n", user=USER + "2\t3\tbaker\n"))
    table, bad = read(source, ["rating", "job"])
    assert table.num_rows == 3
    assert sorted((e.file[-5:], e.line) for e in bad.examples) == [(".user", 4), ("inter", 5), ("inter", 6)]


def test_which_inter_file(tmp_path):
    with pytest.raises(SourceError, match="there is none"):
        RecBole(tmp_path)
    folder(tmp_path)
    (tmp_path / "other.inter").write_text(INTER)
    with pytest.raises(SourceError, match=r"ml\.inter, other\.inter"):
        RecBole(tmp_path)
    (tmp_path / f"{tmp_path.name}.inter").write_text("a:token\n1\n")
    assert RecBole(tmp_path).columns == ("a",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"inter": "user_id\titem_id\n1\t2\n"}, "the header has 'user_id'"),
        ({"inter": "user_id:tokens\n1\n"}, "the header has 'user_id:tokens'"),
        (
            {"inter": "user_id:token\titem_id:token\ta:token\ta:float\n1\t2\t3\t4\n"},
            "two columns are called 'a'",
        ),
        ({"inter": ""}, "is empty"),
        ({"user": "uid:token\tage:float\n1\t2\n"}, "no column 'uid'.*did you mean 'user_id'"),
        ({"user": "user_id:token\trating:float\n1\t2\n"}, "two columns are called 'rating'"),
        ({"user": "user_id:token\ttitle:token\n1\t2\n"}, "two columns are called 'title'"),
    ],
)
def test_files_that_do_not_fit(tmp_path, files, message):
    with pytest.raises(SourceError, match=message):
        RecBole(folder(tmp_path, **files)).parts([message.split("'")[-2]])


def test_a_name_that_stands_twice_and_is_not_asked_for(tmp_path):
    source = RecBole(folder(tmp_path, user="user_id:token\ttitle:token\ta:token\ta:float\n1\t2\t3\t4\n"))
    assert not {"title", "a"} & set(source.columns)
    assert sum(chunk.table.num_rows for chunk in source.chunks(["user_id", "rating"], Quarantine())) > 0


def test_unknown_column(tmp_path):
    with pytest.raises(SourceError, match=r"'titel'.*did you mean 'title'"):
        RecBole(folder(tmp_path)).chunks(["titel"], Quarantine())
