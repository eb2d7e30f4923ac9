"""Folders with subfolders: every file is read, keys in names are columns, and what does not agree is refused."""

from pathlib import Path

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError
from recsys_pipelines.sources.location import file_prints, files_below
from recsys_pipelines.sources.table import Table

CASES = Path(__file__).parents[4] / "shared" / "cases"


def write(root: Path, files: dict[str, object]) -> Path:
    """Write tables as Parquet or Arrow, and text as it is."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        elif name.endswith(".arrow"):
            feather.write_feather(content, str(path))
        else:
            pq.write_table(content, path)
    return root


def read(place, columns):
    """The rows as dicts; their numbers must run from 0 without a gap."""
    chunks = list(Table(place).chunks(columns, Quarantine()))
    assert [row for chunk in chunks for row in chunk.rows] == list(range(sum(len(c.rows) for c in chunks)))
    return pa.concat_tables([chunk.table for chunk in chunks]).to_pylist()


def one(x):
    return pa.table({"x": [x]})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_keys_of_subfolders_are_columns_of_text(tmp_path, kind):
    days = ["dt=2024-01-02/geo.x=N%C3%B8/b", "dt=2024-01-01/geo.x=__HIVE_DEFAULT_PARTITION__/a"]
    tables = ["x\n7\n", "x\n8\n"] if kind == "csv" else [one("7"), one("8")]
    write(tmp_path, {f"{day}.{kind}": table for day, table in zip(days, tables, strict=True)})
    write(tmp_path, {"_SUCCESS": "", "dt=2024-01-02/_committed": "", "_temporary/c.parquet": one("9")})
    assert Table(tmp_path).columns == ("x", "dt", "geo_x")
    assert read(tmp_path, ["dt", "x", "geo_x"]) == [
        {"dt": "2024-01-01", "x": "8", "geo_x": None},
        {"dt": "2024-01-02", "x": "7", "geo_x": "Nø"},
    ]
    assert [row["dt"] for row in read(tmp_path, ["dt"])] == ["2024-01-01", "2024-01-02"]
    assert len(read(tmp_path, ["x"])) == 2


def test_pieces_for_other_processes_keep_their_keys(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 64)
    monkeypatch.setattr("recsys_pipelines.sources.delimited.BLOCKS_OF_PIECE", 1)
    lines = {f"dt={day}/a.csv": "x\n" + "".join(f"{day}{k}\n" for k in range(40)) for day in (1, 2)}
    source = Table(write(tmp_path, lines))
    pieces = source.pieces()
    assert len(pieces) > 4
    chunks = [part.read(Quarantine()) for piece in pieces for part in piece.parts(["x", "dt"])]
    rows = pa.concat_tables([chunk.table for chunk in chunks]).to_pylist()
    assert rows == read(tmp_path, ["x", "dt"])
    assert all(row["x"].startswith(row["dt"]) for row in rows)


def test_a_partitioned_data_set_comes_back(tmp_path):
    frame = pl.DataFrame(
        {"x": range(9), "day": [f"2024-01-0{1 + k % 3}" for k in range(9)], "h": ["a", "b", "c"] * 3}
    )
    pq.write_to_dataset(frame.to_arrow(), tmp_path / "log", partition_cols=["day", "h"])
    rows = read(tmp_path / "log", ["x", "day", "h"])
    assert sorted(rows, key=lambda row: row["x"]) == frame.to_dicts()


def test_subfolders_without_keys_are_read_in_the_order_of_the_names(tmp_path):
    write(
        tmp_path, {"b.parquet": one(2), "a/z.parquet": one(1), "c/d/e.parquet": one(3), "c/f.parquet": one(4)}
    )
    write(
        tmp_path, {".git/a.parquet": one(9), "_old/a.parquet": one(9), "c/.x.parquet": one(9), "c/n.md": "hi"}
    )
    assert [row["x"] for row in read(tmp_path, ["x"])] == [1, 2, 3, 4]


def test_a_folder_in_a_store(tmp_path):
    files = fsspec.filesystem("memory")
    for place, x in (("dt=2", 2), ("dt=1", 1)):
        pq.write_table(one(x), tmp_path / "a.parquet")
        files.pipe(f"/keyed/{place}/a.parquet", (tmp_path / "a.parquet").read_bytes())
    try:
        assert read("memory://keyed/", ["dt", "x"]) == [{"dt": "1", "x": 1}, {"dt": "2", "x": 2}]
        before = file_prints(Table("memory://keyed").files[0].path.parent.parent, subfolders=True)
        assert [name for name, _ in before] == [f"memory://keyed/dt={k}/a.parquet" for k in (1, 2)]
    finally:
        files.rm("/keyed", recursive=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.parquet": one(1), "dt=1/b.parquet": one(2)},
            r"dt=1/b\.parquet: its folders have the key 'dt', and those of .*a\.parquet have no key",
        ),
        (
            {"dt=1/h=1/a.parquet": one(1), "dt=2/b.parquet": one(2)},
            r"dt=2/b\.parquet: .* the key 'dt', and those of .*h=1/a\.parquet have the key 'dt' and the key 'h'",
        ),
        ({"dt=1/dt=2/a.parquet": one(1)}, "two of its folders have the key 'dt'"),
        ({"dt=%ff/a.parquet": one(1)}, "the folder 'dt=%ff' is not UTF-8 text"),
        ({"a/a.parquet": one(1), "b/b.csv": "x\n1\n"}, r"\.csv and \.parquet"),
        ({"a/readme.md": "x"}, "none of the files in this folder and below it ends"),
    ],
)
def test_folders_that_do_not_agree(tmp_path, files, message):
    with pytest.raises(SourceError, match=message):
        Table(write(tmp_path, files))


def test_a_key_that_is_a_column_too_is_refused_when_it_is_used(tmp_path):
    table = pa.table({"x": [1], "dt": ["2024-01-02"]})
    write(tmp_path, {"dt=2024-01-01/a.parquet": table, "dt=2024-01-03/b.parquet": table})
    with pytest.raises(SourceError, match=r"a\.parquet: 'dt' is a column .* its folders \(dt=2024-01-01\)"):
        read(tmp_path, ["dt"])
    assert read(tmp_path, ["x"]) == [{"x": 1}, {"x": 1}]


def test_a_link_that_leads_back_up(tmp_path):
    write(tmp_path, {"a/b.parquet": one(1)})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is there a link that leads back up"):
        Table(tmp_path)


TIMES = pa.array([1000], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (TIMES, TIMES.cast(pa.timestamp("ms", "UTC"))),
        (TIMES, TIMES.cast(pa.timestamp("us", "Europe/Oslo"))),
        (TIMES, TIMES.cast(pa.timestamp("us"))),
        (pa.array([1]), pa.array([1.0])),
        (pa.array([1]), pa.array([1], pa.int32())),
        (pa.array([1], pa.uint64()), pa.array([1])),
        (pa.array([[1]]), pa.array([["a"]])),
        (pa.array([b"0123456789abcdef"], pa.binary(16)), pa.array([1])),
    ],
)
def test_a_column_has_one_type_in_all_files(tmp_path, first, other):
    nothing = pa.nulls(1)
    tables = [pa.table({"x": column, "y": [1]}) for column in (nothing, first, other)]
    write(tmp_path, {f"{k}.parquet": table for k, table in enumerate(tables)})
    with pytest.raises(SourceError, match=r"2\.parquet: column 'x' is .*, but .* in .*1\.parquet") as caught:
        Table(tmp_path).parts(["x"])
    stored = [pq.read_schema(tmp_path / f"{k}.parquet").field("x").type for k in (1, 2)]
    assert all(str(kind) in str(caught.value) for kind in stored)
    assert len(read(tmp_path, ["y"])) == 3


def test_one_type_may_be_stored_in_several_ways(tmp_path):
    texts = pa.array(["a"])
    tables = [
        texts,
        texts.cast(pa.large_string()),
        texts.dictionary_encode(),
        pa.nulls(1),
        texts.cast(pa.string_view()),
    ]
    write(tmp_path, {f"{k}.arrow": pa.table({"x": column}) for k, column in enumerate(tables)})
    assert len(list(Table(tmp_path).chunks(["x"], Quarantine()))) == 5
    lists = [pa.array([[1]]), pa.array([[1]], pa.large_list(pa.int64())), pa.array([[]], pa.list_(pa.null()))]
    write(tmp_path / "l", {f"{k}.arrow": pa.table({"x": column}) for k, column in enumerate(lists)})
    assert len(list(Table(tmp_path / "l").chunks(["x"], Quarantine()))) == 3


def test_a_set_is_prepared_again_when_a_subfolder_changes(tmp_path):
    def table(day):
        return pa.table({"label": [k % 2 for k in range(50)], "x": [k % 7 + day for k in range(50)]})

    log = write(tmp_path / "log", {"dt=1/a.parquet": table(1), "dt=2/a.parquet": table(2)})
    data = DataConfig(source="table", path=log, label={"column": "label"})
    features = [CategoricalConfig(kind="categorical", names=("dt", "x"))]
    first = prepare(data, features, tmp_path / "out")
    assert (first.manifest.rows_in, first.manifest.rows_out) == (100, 100)
    assert first.features().text == {"dt": True, "x": False}
    assert prepare(data, features, tmp_path / "out").path == first.path
    write(log, {"dt=3/a.parquet": table(3)})
    again = prepare(data, features, tmp_path / "out")
    assert (again.path != first.path, again.manifest.rows_in) == (True, 150)
    assert len(list(files_below(log))) == 3


def test_what_this_program_keeps_in_the_folder_is_no_part_of_the_log(tmp_path):
    write(tmp_path, {"a.parquet": one(1), "b/c.parquet": one(2)})
    write(tmp_path, {"runs/x/features/features.json": "{}", "runs/x/predictions.parquet": one(9)})
    write(tmp_path, {"prepared/log-1/.lock": "", "prepared/log-1/staged/part.arrow": one(9)})
    assert [row["x"] for row in read(tmp_path, ["x"])] == [1, 2]
    assert [Path(name).name for name, *_ in file_prints(tmp_path, subfolders=True)] == [
        "a.parquet",
        "c.parquet",
    ]


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
def test_the_shared_cases():
    rows = read(CASES / "folders" / "hive", ["dt", "clicked"])
    assert len(rows) == 2000
    assert sorted({row["dt"] for row in rows}) == [f"2024-01-0{k}" for k in range(1, 5)]
    with pytest.raises(SourceError, match=r"half/part-0\.parquet: .*half/dt=2024-01-01/part-0\.parquet"):
        Table(CASES / "folders" / "half")
