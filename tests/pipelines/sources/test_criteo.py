import gzip

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_pipelines.config import DataConfig
from recsys_pipelines.features.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.criteo import COLUMNS, FEATURES, Criteo

SPECS = {
    "label": ColumnSpec("label", "label"),
    **{name: ColumnSpec(name, "squared_log" if name[0] == "i" else "id") for name in FEATURES},
}


def line(label="0", **changes):
    fields = {name: f"{i}" if name[0] == "i" else f"68fd1e{i:02x}" for i, name in enumerate(FEATURES)}
    fields.update(changes)
    return "\t".join([label, *fields.values()] if label is not None else fields.values())


def read(source, columns):
    bad = Quarantine()
    chunks = list(source.chunks(columns, bad))
    for chunk in chunks:
        assert chunk.table.column_names == list(columns)
        assert chunk.table.num_rows == len(chunk.rows)
        assert chunk.rows.dtype == np.int64
    return pa.concat_tables(c.table for c in chunks), np.concatenate([c.rows for c in chunks]), bad


def test_what_lies_beside_a_part_is_not_the_part(tmp_path):
    (tmp_path / "day_0").write_text(line() + "\n")
    for name in ("day_0.part", "train.csv.bak", "day_00x"):
        (tmp_path / name).write_text("no rows")
    assert read(Criteo(tmp_path), ["c1"])[0].num_rows == 1
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(line().encode()))
    with pytest.raises(SourceError, match=r"day_0 and day_0\.gz are one part"):
        Criteo(tmp_path)


def test_plain_text_with_missing_and_negative_values(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("\n".join([line("1", i2="-3", c26=""), line("0", i1="", c1='"x')]) + "\n")
    source = Criteo(path)
    assert source.columns == COLUMNS
    table, rows, bad = read(source, ["c26", "label", "i2", "i1", "c1"])
    assert table.to_pydict() == {
        "c26": [None, "68fd1e26"],
        "label": ["1", "0"],
        "i2": ["-3", "1"],
        "i1": ["0", None],
        "c1": ["68fd1e0d", '"x'],
    }
    assert rows.tolist() == [0, 1]
    assert bad.count == 0


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends(tmp_path, ending, last):
    path = tmp_path / "train.txt"
    path.write_bytes((ending.join([line(), line("1")]) + (ending if last else "")).encode())
    table, _, bad = read(Criteo(path), ["label", "c26"])
    assert table.to_pydict() == {"label": ["0", "1"], "c26": ["68fd1e26"] * 2}
    assert bad.count == 0


def test_compressed(tmp_path):
    text = (line() + "\n").encode() * 1000
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(
        gzip.compress(text[: len(text) // 2]) + gzip.compress(text[len(text) // 2 :])
    )
    with pa.CompressedOutputStream(str(tmp_path / "a.txt.zst"), "zstd") as stream:
        stream.write(text)
    plain, *others = (read(Criteo(tmp_path / n), COLUMNS)[0] for n in ("a.txt", "a.txt.gz", "a.txt.zst"))
    assert plain.num_rows == 1000
    assert all(other.equals(plain) for other in others)


def test_unlabelled(tmp_path):
    (tmp_path / "test.txt").write_text(line(None) + "\n" + line(None) + "\n")
    (tmp_path / "train.txt").write_text(line() + "\n")
    source = Criteo(tmp_path / "test.txt", labelled=False)
    assert source.columns == FEATURES
    assert read(source, ["i1", "c26"])[0].to_pydict() == {"i1": ["0"] * 2, "c26": ["68fd1e26"] * 2}
    # A file with labels can be scored too.
    source = Criteo(tmp_path / "train.txt", labelled=False)
    assert read(source, ["i1", "c26"])[0].to_pydict() == {"i1": ["0"], "c26": ["68fd1e26"]}


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_columnar_files_keep_types_and_may_shout(tmp_path, suffix):
    table = pa.table({name.upper(): pa.array([1, None, 3], pa.int64()) for name in reversed(COLUMNS)})
    path = tmp_path / f"criteo.{suffix}"
    (pq.write_table if suffix == "parquet" else feather.write_feather)(table, str(path))
    source = open_source(DataConfig(source="criteo", path=path))
    assert source.columns == COLUMNS
    read_back, rows, _ = read(source, ["i1", "label"])
    assert read_back.equals(table.select(["I1", "LABEL"]).rename_columns(["i1", "label"]))
    assert rows.tolist() == [0, 1, 2]


def test_folder_of_days_is_read_in_order(tmp_path):
    for day in (10, 2, 0):
        (tmp_path / f"day_{day}").write_text("bad\n" + line(i1=str(day)) + "\n")
    (tmp_path / "readme.txt").write_text("hello")
    table, rows, bad = read(Criteo(tmp_path), ["i1"])
    assert table["i1"].to_pylist() == ["0", "2", "10"]
    assert rows.tolist() == [1, 3, 5]
    assert [(e.row, e.line) for e in bad.examples] == [(0, 1), (2, 1), (4, 1)]


HEADER = ",".join(["Label", *FEATURES]).upper().replace("LABEL", "Label")


@pytest.mark.parametrize("name", ["criteo_x4", "criteo_x1"])
def test_benchmark_splits(tmp_path, name):
    header = HEADER if name == "criteo_x4" else HEADER.replace("Label", "label")
    for part, i1 in (("test", "0.3"), ("train", ""), ("valid", "-2")):
        text = header + "\n" + line("1", i1=i1).replace("\t", ",") + "\nbad\n"
        (tmp_path / f"{part}.csv.gz").write_bytes(gzip.compress(text.encode()))
    source = open_source(DataConfig(source=name, path=tmp_path))
    assert source.columns == COLUMNS
    table, rows, bad = read(source, ["i1", "label", "c26"])
    assert table.to_pydict() == {"i1": [None, "-2", "0.3"], "label": ["1"] * 3, "c26": ["68fd1e26"] * 3}
    assert rows.tolist() == [0, 2, 4]
    assert [(e.line, e.reason) for e in bad.examples] == [(3, "1 columns instead of 40")] * 3
    assert read(open_source(DataConfig(source=name, path=tmp_path / "valid.csv.gz")), ["i1"])[1].tolist() == [
        0
    ]


def test_terabyte_days_compressed(tmp_path):
    text = "".join(line(i1=str(k)) + "\n" for k in range(3)).encode()
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(text))
    with pa.CompressedOutputStream(str(tmp_path / "day_10.zst"), "zstd") as stream:
        stream.write(text)
    (tmp_path / "day_9").write_bytes(text)
    table, rows, _ = read(open_source(DataConfig(source="criteo_1tb", path=tmp_path)), ["i1"])
    assert table["i1"].to_pylist() == ["0", "1", "2"] * 3
    assert rows.tolist() == list(range(9))


def test_bad_lines_go_to_quarantine_with_their_numbers(tmp_path):
    path = tmp_path / "train.txt"
    lines = [
        line(),
        line() + "\textra",
        "",
        "short\tline",
        line(c3="\udcff"),
        "\udcff\t\udcfe",
        line(c1="a\rb"),
        line(c1="last"),
    ]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    table, rows, bad = read(Criteo(path), ["label", "c1", "c3"])
    assert table["c1"].to_pylist() == ["68fd1e0d", "last"]
    assert rows.tolist() == [0, 7]
    assert sorted((e.line, e.row, e.field, e.reason) for e in bad.examples) == [
        (2, 1, None, "41 columns instead of 40"),
        (3, 2, None, "blank line"),
        (4, 3, None, "2 columns instead of 40"),
        (5, 4, "c3", "not UTF-8 text"),
        (6, 5, None, "2 columns instead of 40"),
        (7, 6, None, "carriage return inside a line"),
    ]
    assert {e.file for e in bad.examples} == {str(path)}
    # An unreadable field nobody asked for costs no row.
    assert 4 in read(Criteo(path), ["c1"])[1]


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    path = tmp_path / "train.txt"
    path.write_text("\n".join(line(c1=f"id{i}") if i % 7 else "bad" for i in range(200)))
    want = read(Criteo(path), ["c1"])
    for size in (1, 100, 1000):
        monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", size)
        table, rows, bad = read(Criteo(path), ["c1"])
        assert table["c1"].to_pylist() == want[0]["c1"].to_pylist()
        assert np.array_equal(rows, want[1])
        assert bad.examples == want[2].examples


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "the first line is empty|there are no rows"),
        ("a.txt.gz", gzip.compress((line() + "\n").encode() * 5000)[:-20], "not a complete .*text file"),
        ("a.txt.gz", b"plain text", "not a complete .*text file"),
        ("a.parquet", b"PAR1 and then nothing", "not a complete Parquet file"),
        ("a.arrow", b"ARROW1 and then nothing", "not a complete Arrow IPC file"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read(Criteo(path), ["label"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: range(1000) for name in COLUMNS}), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SourceError, match="not a complete Parquet file"):
        Criteo(path)


def test_missing_and_doubled_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: [1] for name in COLUMNS if name != "c26"}), path)
    with pytest.raises(SourceError, match=r"a\.parquet.*no column 'c26'.*did you mean 'c6'"):
        Criteo(path)
    pq.write_table(pa.table({name: [1] for name in (*COLUMNS, "LABEL")}), path)
    with pytest.raises(SourceError, match="two columns are called 'label'"):
        Criteo(path)
    pq.write_table(pa.table({name: [1] for name in FEATURES}), path)
    with pytest.raises(SourceError, match="no column 'label'"):
        Criteo(path)
    assert Criteo(path, labelled=False).columns == FEATURES


def test_paths(tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        Criteo(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no day_"):
        Criteo(tmp_path)


JUNK = st.sampled_from(
    [b"\t", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b'"', b"\x1f", b"\xef\xbb\xbf", b"", b"x", b"-1"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), JUNK | st.binary(max_size=6)), max_size=8)
)
def test_any_damage_keeps_rows_in_equal_to_rows_out_and_quarantined(tmp_path, damage):
    text = "".join(line(str(i % 2), c1=f"é{i}") + "\n" for i in range(12)).encode()
    for place, length, junk in damage:
        place %= len(text) + 1
        text = text[:place] + junk + text[place + length :]
    path = tmp_path / "fuzz.txt"
    path.write_bytes(text)
    bad = Quarantine()
    tables = [typed(chunk, SPECS, bad) for chunk in Criteo(path).chunks(COLUMNS, bad)]
    out = [row for table in tables for row in table["row_id"].to_pylist()]
    lines = text.removeprefix(b"\xef\xbb\xbf").count(b"\n") + (not text.endswith(b"\n"))
    assert sorted([*out, *(e.row for e in bad.examples)]) == list(range(lines))
    bad.write(tmp_path)
