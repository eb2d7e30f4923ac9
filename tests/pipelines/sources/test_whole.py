"""Files that are read whole, against Python's csv module; what is no row is an error, for none may be lost."""

import bz2
import csv
import decimal
import gzip
import io
import uuid
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_pipelines.sources.base import SourceError
from recsys_pipelines.sources.table import Table
from recsys_pipelines.sources.whole import WholeFile, bare_name, numbers_of

TEXT = b"user.id,n\n007,1\nNA,2\n"
ROWS = [{"user.id": "007", "n": "1"}, {"user.id": "NA", "n": "2"}]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def same(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("name", ["A.CSV", "a.csv", "a.tsv", "a.Tsv"])
@pytest.mark.parametrize(
    ("compression", "compress"),
    [("", same), (".gz", gzip.compress), (".ZST", zstd), (".bz2", bz2.compress)],
)
def test_endings_of_text(
    tmp_path: Path, name: str, compression: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / (name + compression)
    path.write_bytes(compress(TEXT.replace(b",", b"\t") if "tsv" in name.lower() else TEXT))
    file = WholeFile(path)
    assert (file.text, file.names) == (True, ("user.id", "n"))
    assert file.read().to_pylist() == ROWS
    assert bare_name(path) == name[0]
    assert Table(path).columns == ("user_id", "n")  # the source's list is the same, though it renames


@pytest.mark.parametrize("name", ["a.parquet", "a.PQ", "a.arrow", "a.ipc", "a.feather"])
def test_endings_of_columns(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame(ROWS).with_columns(n=pl.col("n").cast(pl.Int64))
    path = tmp_path / name
    frame.write_parquet(path) if name[2].lower() == "p" else frame.write_ipc(path)
    file = WholeFile(path)
    assert not file.text
    assert file.read(["n", "user.id"]).to_pylist() == [{"n": 1, "user.id": "007"}, {"n": 2, "user.id": "NA"}]


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.parquet.gz", "a.json", "csv"])
def test_other_endings_are_refused_with_the_list(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(TEXT)
    with pytest.raises(
        SourceError, match=r"must be one of \.parquet, .*\.csv or \.tsv, which may have \.gz, \.zst"
    ):
        WholeFile(tmp_path / name)
    assert bare_name(tmp_path / name) is None


FIELD = st.one_of(
    st.sampled_from(
        ["", "NA", "null", "00", "0", "1e3", "2024-01-08", "9223372036854775808", ' "', "a,b", "\t"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=6),
)


@settings(max_examples=60, deadline=None)
@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(FIELD, min_size=width, max_size=width), min_size=1, max_size=8)
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    tabs=st.booleans(),
)
def test_text_is_what_the_csv_module_reads(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], quoting: int, tabs: bool
) -> None:
    """The oracle is ten lines: every field as it stands, None where it is empty."""
    names = [f"c{place}" for place in range(len(table[0]))]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t" if tabs else ",", quoting=quoting, lineterminator="\n")
    writer.writerows([names, *table])
    path = tmp_path_factory.mktemp("text") / ("a.tsv" if tabs else "a.csv")
    path.write_text(stream.getvalue(), encoding="utf-8")
    read = csv.reader(io.StringIO(stream.getvalue()), delimiter="\t" if tabs else ",")
    next(read)
    oracle = [{name: field or None for name, field in zip(names, row, strict=True)} for row in read]
    assert WholeFile(path).read().to_pylist() == oracle


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False))
def test_numbers_are_those_that_python_reads(x: float) -> None:
    short = f"{x:.3g}"
    found = numbers_of(pa.array([repr(x), short, None], pa.large_string()))
    assert found is not None
    assert found.to_pylist() == [x, float(short), None]


@pytest.mark.parametrize("text", ["NA", " 1", "1,5", "1_000", "0x1F", "one", "1;", "١"])
def test_what_is_no_number_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id,n\na,1\nb,"{text}"\n', encoding="utf-8")
    file = WholeFile(path)
    with pytest.raises(SourceError) as caught:
        file.numbers("n", file.read()["n"].combine_chunks())
    assert str(caught.value) == f"{path}: row 1 (line 3): n is {text!r}, not a number: write it as 12 or 0.5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a,b\n1,2\n3\n", "row 1 (line 3): 1 columns instead of 2: correct '3', for no row may be left out"),
        (b"a,b\n1,2\n\n3,4\n", "row 1 (line 3): blank line"),
        (b'a,b\n1,"2\n3,4\n', "row 0 (line 2): quotes: "),
        (b"a,b\n1,2\n1,\xff\n", r"row 1 (line 3): b: not UTF-8 text: correct '\\xff'"),
        (b"a,b\n1,2,3\n1,\n\n", "row 0 (line 2): 3 columns instead of 2"),
        (b"a,b\n", "has no rows: check that this is the right file"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_row_is_an_error(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(SourceError) as caught:
        WholeFile(path).read()
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_line_far_behind_is_found(tmp_path: Path) -> None:
    """Behind the first block of bytes, among good lines on other threads."""
    path = tmp_path / "a.csv"
    lines = [f"{number},{'x' * 90}" for number in range(200_000)]
    lines[150_000] += ",more"
    path.write_text("id,text\n" + "\n".join(lines))
    with pytest.raises(SourceError, match=r"row 150000 \(line 150002\): 3 columns instead of 2"):
        WholeFile(path).read()


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.csv: no such file: give a file that ends with \.parquet"):
        WholeFile(tmp_path / "no.csv")
    with pytest.raises(SourceError, match="this is a folder, and a file is needed"):
        WholeFile(tmp_path)


def test_values_of_columns_are_plain(tmp_path: Path) -> None:
    """UUIDs are their text, categories and bytes what they stand for; all else keeps its type."""
    ids = [uuid.UUID(int=5), uuid.UUID(int=2**127 + 9)]
    table = pa.table(
        {
            "uuid": pa.ExtensionArray.from_storage(
                pa.uuid(), pa.array([i.bytes for i in ids], pa.binary(16))
            ),
            "bytes": pa.array([b"caf\xc3\xa9", None]),
            "code": pa.array([b"CH", b"DE"], pa.binary(2)),
            "kind": pa.array(["x", None]).dictionary_encode(),
            "hash": pa.array([2**63, 1], pa.uint64()),
            "whole": pa.array([decimal.Decimal(7), None], pa.decimal128(38, 0)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = WholeFile(tmp_path / "a.parquet").read()
    assert found["uuid"].to_pylist() == [str(i) for i in ids]
    assert found["bytes"].to_pylist() == ["café", None]
    assert found["code"].to_pylist() == ["CH", "DE"]
    assert found["kind"].to_pylist() == ["x", None]
    assert found["hash"].type == pa.uint64()
    assert found["whole"].to_pylist() == [7, None]
    frame = pl.DataFrame({"c": pl.Series(["a", "b", "a"], dtype=pl.Categorical)})
    frame.write_ipc(tmp_path / "a.arrow", compression="zstd")
    assert WholeFile(tmp_path / "a.arrow").read()["c"].to_pylist() == ["a", "b", "a"]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.binary(16), pa.string()):
        values = pa.array([b"a" * 16, b"\xff" * 16], pa.binary())
        if kind == pa.string():
            values = pa.StringArray.from_buffers(2, values.buffers()[1], values.buffers()[2])
        else:
            values = values.cast(kind)
        pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
        with pytest.raises(SourceError, match=r"a\.parquet: row 1: x is b'\\xff.*, which is not UTF-8 text"):
            WholeFile(tmp_path / "a.parquet").read()
