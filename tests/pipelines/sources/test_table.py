import gzip
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from recsys_cython_ext import arrow_ids
from recsys_pipelines.config import DataConfig, GeneratorConfig
from recsys_pipelines.features.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SOURCES, SourceError, open_source
from recsys_pipelines.sources.base import MOST_COLUMNS
from recsys_pipelines.sources.table import Table


def read(source, columns):
    bad = Quarantine()
    chunks = list(source.chunks(columns, bad))
    return pa.concat_tables(c.table for c in chunks), np.concatenate([c.rows for c in chunks]), bad


def test_csv_columns_are_always_strings(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,"list, of", t \n007,"[1, 2]",1.0\n12,"say ""hi""",\n"",NULL,nan\n')
    source = Table(path)
    assert source.columns == ("id", "list, of", "t")
    table, rows, bad = read(source, ["t", "id", "list, of"])
    assert table.to_pydict() == {
        "t": ["1.0", None, "nan"],
        "id": ["007", "12", None],
        "list, of": ["[1, 2]", 'say "hi"', "NULL"],
    }
    assert rows.tolist() == [0, 1, 2]
    assert bad.count == 0


def test_a_stray_quote_costs_its_own_line_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"open\n2,x\n3,"a"b\n4,in"side\n5,"two\nlines"\n6,y\n')
    table, rows, bad = read(Table(path), ["a"])
    assert table["a"].to_pylist() == ["2", "4", "6"]
    assert rows.tolist() == [1, 3, 6]
    assert sorted(e.line for e in bad.examples) == [2, 4, 6, 7]
    assert sum("quotes" in e.reason for e in bad.examples) == 3


@pytest.mark.parametrize("kind", ["parquet", "feather", "csv", "csv.gz"])
def test_folder_in_order_of_names(tmp_path, kind):
    for number, part in enumerate(["b", "a", "c"]):
        table = pa.table({"x": [number * 10, number * 10 + 1], part: ["p", "q"], "y": ["u", "v"]})
        path = tmp_path / f"{part}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        elif kind == "feather":
            feather.write_feather(table, str(path))
        else:
            text = f"x,{part},y\n{number * 10},p,u\n{number * 10 + 1},q,v\n".encode()
            path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "readme.md").write_text("hello")
    (tmp_path / ".hidden.csv").write_text("")
    source = open_source(DataConfig(source="table", path=tmp_path))
    table, rows, _ = read(source, ["y", "x"])
    assert [int(x) for x in table["x"].to_pylist()] == [10, 11, 0, 1, 20, 21]
    assert table["y"].to_pylist() == ["u", "v"] * 3
    assert rows.tolist() == list(range(6))
    with pytest.raises(SourceError, match=rf"b\.{kind}.*no column 'a'"):
        read(source, ["a"])


def test_arrow_keeps_types_and_slices_large_batches(tmp_path):
    lists = pa.array([[1, None], None] * 50_000, pa.list_(pa.int32()))
    table = pa.table({"l": lists, "d": pa.array(["a", "b"] * 50_000).dictionary_encode()})
    feather.write_feather(table, str(tmp_path / "a.arrow"), chunksize=100_000)
    back, rows, _ = read(Table(tmp_path / "a.arrow"), ["d", "l"])
    assert back.combine_chunks().equals(table.select(["d", "l"]).combine_chunks())
    assert np.array_equal(rows, np.arange(100_000))


def test_text_in_one_file_and_numbers_in_the_next(tmp_path):
    pq.write_table(pa.table({"x": [1], "y": ["a"], "z": pa.nulls(1)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["1"], "y": pa.array([b"a"]), "z": [1]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet: column 'x' is string, but int64 in .*a\.parquet"):
        read(Table(tmp_path), ["x"])
    assert len(list(Table(tmp_path).chunks(["y", "z"], Quarantine()))) == 2


NAMES = {  # a header, what is asked of it, and what is wrong with its other names
    "user,item,,": (["user", "item"], {"": "two columns are called ''"}),
    "user,note,item,note": (["item", "user"], {"note": "two columns are called 'note'"}),
    "geo.lat,user,geo_lat,item": (
        ["user", "item"],
        {"geo_lat": r"two columns are called 'geo_lat' \('geo\.lat' and 'geo_lat' are both read so\)"},
    ),
}


@pytest.mark.parametrize("kind", ["csv", "quoted.csv", "parquet", "arrow"])
@pytest.mark.parametrize("header", NAMES)
def test_a_name_that_stands_twice_is_refused_when_it_is_asked_for(tmp_path, header, kind):
    asked, wrong = NAMES[header]
    path, names = tmp_path / f"a.{kind}", header.split(",")
    values = [f"{name}{place}" for place, name in enumerate(names)]
    if kind.endswith("csv"):
        quote = '"' if kind.startswith("quoted") else ""
        path.write_text(f"{header}\n" + ",".join(f"{quote}{value}{quote}" for value in values) + "\n")
    else:
        table = pa.Table.from_arrays([pa.array([value]) for value in values], names=names)
        pq.write_table(table, path) if kind == "parquet" else feather.write_feather(table, str(path))
    source = Table(path)
    assert sorted(source.columns) == sorted(asked)
    assert read(source, asked)[0].to_pylist() == [{name: f"{name}{names.index(name)}" for name in asked}]
    for name, message in wrong.items():
        with pytest.raises(SourceError, match=rf"a\.{kind}: {message}.*: rename one"):
            read(Table(path), [*asked, name])


@pytest.mark.parametrize("name", ["sheet.csv", "join.csv", "dots.parquet"])
def test_the_shared_cases_of_unused_names(name):
    path = Path(__file__).parents[4] / "shared" / "cases" / "unused_names" / name
    if not path.exists():
        pytest.skip("the shared cases are not here")
    assert read(Table(path), ["user_id", "item_id", "clicked"])[0].num_rows == 1000


def test_a_wide_header_costs_what_it_holds(tmp_path):
    path = tmp_path / "a.csv"
    names = [f"c{k}" for k in range(MOST_COLUMNS)]
    path.write_text(",".join(names) + "\n" + ",".join("1" * MOST_COLUMNS) + "\n")
    started = time.perf_counter()
    assert read(Table(path), [names[-1], "c0"])[0].to_pylist() == [{names[-1]: "1", "c0": "1"}]
    with pytest.raises(SourceError, match=r"there is no column 'd'; it has c0, c1.* more"):
        Table(path).parts(["d"])
    assert time.perf_counter() - started < 30  # a scan of all names for each would take a quarter of an hour
    path.write_text("x," + ",".join(names) + "\n")
    with pytest.raises(SourceError, match=r"a\.csv: has 100,001 columns, and 100,000 are the most"):
        Table(path)
    pq.write_table(pa.table({f"c{k}": [1] for k in range(3)}), tmp_path / "a.parquet")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recsys_pipelines.sources.base.MOST_COLUMNS", 2)
        with pytest.raises(SourceError, match=r"a\.parquet: has 3 columns, and 2 are the most"):
            Table(tmp_path / "a.parquet")


def test_long_quoted_fields_are_read_like_others(tmp_path):
    long = "x, " * 100_000
    (tmp_path / "a.csv").write_text(f'"{"h" * 200_000}",b\n"{long}",1\n2,"a ""{long}"""\n')
    source = Table(tmp_path / "a.csv")
    table, _, bad = read(source, ["b", source.columns[0]])
    assert table.column(1).to_pylist() == [long, "2"]
    assert table.column(0).to_pylist() == ["1", f'a "{long}"']
    assert bad.count == 0


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
def test_categories_and_text_as_polars_writes_them(tmp_path, compression):
    texts = ["a", None, "more than twelve bytes", "a"]
    frame = pl.DataFrame({"t": texts, "n": range(4)}).with_columns(
        c=pl.col("t").cast(pl.Categorical),
        e=pl.col("t").cast(pl.Enum(["a", "more than twelve bytes"])),
        l=pl.concat_list("t"),
    )
    frame.write_ipc(tmp_path / "a.arrow", compression=compression, compat_level=pl.CompatLevel.newest())
    specs = {name: ColumnSpec(name, "ids" if name == "l" else "id") for name in "tcel"}
    bad = Quarantine()
    (chunk,) = Table(tmp_path / "a.arrow").chunks(list("tceln"), bad)
    table = typed(chunk, specs, bad)
    expected = arrow_ids(pa.array(texts)).tolist()
    assert [table[name].to_pylist() for name in "tce"] == [expected] * 3
    assert table["l"].to_pylist() == [[one] for one in expected]
    assert bad.count == 0
    assert typed(chunk, {"x": ColumnSpec("t", "number")}, bad).num_rows == 1
    assert bad.examples[0].value == "a"


def test_kinds_do_not_mix(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("x\n1\n")
    with pytest.raises(SourceError, match=r"\.csv and \.parquet"):
        Table(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n1,2\n", "first line is empty"),
        ("a.csv", b"a,b\n", "there are no rows"),
        ("a.csv", b"a,a\n1,2\n", "two columns are called 'a'"),
        ("a.csv", b"a,\xff\n1,2\n", "first line is unreadable"),
        ("a.csv", b'a,"b\n1,2\n', "first line is unreadable"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 9999)[:-9], "not a complete"),
        ("a.csv.zst", b"not zstd", "not a complete"),
        ("a.parquet", b"", "is empty"),
        ("a.parquet", b"a,b\n1,2\n3,4\n5,6\n", "not a complete Parquet"),
        ("a.arrow", b"a,b\n1,2\n3,4\n5,6\n", "not a complete Arrow"),
        ("a.txt", b"a,b\n1,2\n", r"must be one of \.parquet"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read(Table(path), ["a"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if not name.endswith(".txt"):
        with pytest.raises(SourceError, match=message):
            read(Table(tmp_path), ["a"])


def test_damage_inside_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(10_000)}), path)
    raw = bytearray(path.read_bytes())
    raw[4:60] = b"\xff" * 56
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="not a complete Parquet"):
        read(Table(path), ["x"])


def test_damage_inside_an_arrow_file(tmp_path):
    path = tmp_path / "a.arrow"
    feather.write_feather(pa.table({"x": ["abcdefgh"] * 100}), str(path), compression="uncompressed")
    raw = path.read_bytes()
    offsets = np.arange(0, 808, 8, dtype=np.int32).tobytes()
    assert offsets in raw
    path.write_bytes(raw.replace(offsets, offsets[:200] + b"\xff\xff\xff\x7f" + offsets[204:]))
    with pytest.raises(SourceError, match="not a complete Arrow"):
        read(Table(path), ["x"])


def test_bytes_that_parquet_calls_a_string(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([b"ok", b"\xff", None]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), text)
    pq.write_table(pa.table({"x": text, "l": lists}), path)
    for column, kind, shown in (("x", "id", r"\xff"), ("l", "ids", "<list<element: string>>")):
        bad = Quarantine()
        (chunk,) = Table(path).chunks([column], bad)
        table = typed(chunk, {"out": ColumnSpec(column, kind)}, bad)
        assert table["row_id"].to_pylist() == [0, 2]
        assert [(e.row, e.line, e.value, e.reason) for e in bad.examples] == [
            (1, None, shown, "not UTF-8 text")
        ]


def test_a_stray_quote_alone_in_its_block_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 8)
    path = tmp_path / "a.csv"
    path.write_text('p,q\n1,2\n"x,3\n4,"5"\n')
    bad = Quarantine()
    chunks = list(Table(path).chunks(["q"], bad))
    assert [value for chunk in chunks for value in chunk.table["q"].to_pylist()] == ["2", "5"]
    assert [(e.line, e.reason[:6]) for e in bad.examples] == [(3, "quotes")]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_bytes_that_are_no_text_in_a_last_line_with_and_without_an_end(tmp_path, end):
    path = tmp_path / "a.csv"
    path.write_bytes(b"p,q\n\xff\xfe,1" + end)
    bad = Quarantine()
    assert sum(chunk.table.num_rows for chunk in Table(path).chunks(["p", "q"], bad)) == 0
    assert [(e.row, e.line, e.field, e.reason) for e in bad.examples] == [(0, 2, "p", "not UTF-8 text")]


def test_a_file_of_one_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_pipelines.sources.blocks.LONGEST_LINE", 1000)
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 100)
    (tmp_path / "a.csv").write_text("a\n" + "1" * 5000)
    with pytest.raises(SourceError, match="longer than 1,000 bytes"):
        read(Table(tmp_path), ["a"])


def test_every_declared_source_has_a_reader(tmp_path):
    declared = set(DataConfig.model_fields["source"].annotation.__args__)
    assert declared == {*SOURCES, "generated"}
    with pytest.raises(SourceError, match="'generated'"):
        open_source(DataConfig(source="generated", generator=GeneratorConfig(rows=10)))
    for name in SOURCES:
        with pytest.raises(SourceError, match="nowhere"):
            open_source(DataConfig(source=name, path=tmp_path / "nowhere"))
