"""Sources by URL: what holds for a local file holds for one on any file system that fsspec knows."""

import gzip
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.features.categorical import kept_ids
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.location import Url, entries, located

ROWS = 200
TABLE = pa.table({"label": [k % 2 for k in range(ROWS)], "c": [f"c{k % 9}" for k in range(ROWS)]})
CSV = "label,c\n" + "".join(f"{k % 2},c{k % 9}\n" for k in range(ROWS))


@pytest.fixture
def store():
    files = fsspec.filesystem("memory")
    files.mkdir("/log")
    yield files
    files.rm("/log", recursive=True)


def packed(name, folder):
    """The bytes of a file of this name, with the rows of `TABLE`."""
    path = folder / name
    if name.endswith("parquet"):
        pq.write_table(TABLE, path)
    elif name.endswith("arrow"):
        feather.write_feather(TABLE, str(path))
    elif name.endswith("zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(CSV.encode())
    else:
        path.write_bytes(gzip.compress(CSV.encode()) if name.endswith("gz") else CSV.encode())
    return path.read_bytes()


def read(source, place, columns):
    bad = Quarantine()
    chunks = open_source(DataConfig(source=source, path=place)).chunks(columns, bad)
    return pa.concat_tables(chunk.table for chunk in chunks)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("place", ["memory://log/{}", "memory://log", "memory://log/"])
def test_every_format(tmp_path, store, name, place):
    store.pipe(f"/log/{name}", packed(name, tmp_path))
    remote = read("table", place.format(name), ["c", "label"])
    assert remote.equals(read("table", tmp_path / name, ["c", "label"]))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.parquet", "a.arrow"])
def test_a_local_file_by_url(tmp_path, name):
    packed(name, tmp_path)
    assert read("table", f"file://{tmp_path}/{name}", ["c"]).num_rows == ROWS


def test_folders_with_files_of_several_kinds(tmp_path, store):
    for name, text in (
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n"),
        ("movies.csv", "movieId,title,genres\n2,A (1999),War|Drama\n"),
        ("day_10", "0\t" + "\t".join("1" * 39) + "\n"),
        ("day_2", "1\t" + "\t".join("2" * 39) + "\n"),
        ("ml.inter", "user_id:token\titem_id:token\n1\t2\n"),
        ("ml.user", "user_id:token\tage:float\n1\t24\n"),
    ):
        store.pipe(f"/log/{name}", text.encode())
    assert read("movielens_csv", "memory://log", ["year", "genres"]).to_pylist() == [
        {"year": "1999", "genres": ["War", "Drama"]}
    ]
    assert read("criteo_1tb", "memory://log", ["label"])["label"].to_pylist() == ["1", "0"]
    assert read("recbole", "memory://log", ["age"])["age"].to_pylist() == ["24"]


def test_prepared_again_only_when_the_file_changed(tmp_path, store):
    store.pipe("/log/a.csv.gz", packed("a.csv.gz", tmp_path))
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    data = DataConfig(source="table", path="memory://log/a.csv.gz")
    first = prepare(data, features, tmp_path / "out")
    assert first.path.name.startswith("a.csv-")
    assert first.manifest.rows_out == ROWS
    assert first.manifest.data["path"] == "memory://log/a.csv.gz"
    assert prepare(DataConfig.model_validate(first.manifest.data), features, tmp_path / "out") == first
    store.pipe("/log/a.csv.gz", packed("a.csv.gz", tmp_path))
    assert prepare(data, features, tmp_path / "out").path != first.path
    folder = DataConfig(source="table", path="memory://log")
    assert prepare(folder, features, tmp_path / "out").manifest.rows_out == ROWS


def test_what_is_missing_is_named(tmp_path, store):
    with pytest.raises(SourceError, match=r"memory://log/nowhere\.csv: there is no such file"):
        read("table", "memory://log/nowhere.csv", ["c"])
    store.pipe("/log/a.csv", b"")
    with pytest.raises(SourceError, match=r"memory://log/a\.csv: the file is empty"):
        read("table", "memory://log/a.csv", ["c"])
    with pytest.raises(SourceError, match="this is a folder"):
        read("avazu", "memory://log", ["c"])
    store.pipe("/log/a.csv.gz", packed("a.csv.gz", tmp_path)[:-30])
    with pytest.raises(SourceError, match=r"memory://log/a\.csv\.gz: this is not a complete"):
        read("table", "memory://log/a.csv.gz", ["c"])


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SourceError, match=r"s3://bucket/a\.csv: cannot be reached \(ImportError: .*s3fs"):
        read("table", "s3://bucket/a.csv", ["c"])


def test_a_url_reads_like_a_path():
    url = located("https://host/folder/a.csv.gz?token=1/2")
    assert (url.name, url.stem, url.suffix) == ("a.csv.gz", "a.csv", ".gz")
    assert str(located("s3://b/x.inter").with_suffix(".user")) == "s3://b/x.user"
    assert str(located("s3://b/x/").parent / "y") == "s3://b/y"
    assert url.resolve() is located(url) is url
    assert located("a/b") == located(Path("a/b")) == Path("a/b")
    assert Url("s3://b") < Url("s3://c")
    assert Url("s3://b").parent == Url("s3://b")
    assert Url("file:///a").parent.parent == Url("file://")


def test_entries_are_sorted(tmp_path, store):
    for name in "bca":
        store.pipe(f"/log/{name}", b"1")
        (tmp_path / name).touch()
    assert [entry.name for entry in entries(Url("memory://log"))] == ["a", "b", "c"]
    assert [entry.name for entry in entries(tmp_path)] == ["a", "b", "c"]


REFUSED = [
    "reference::file:///tmp/x.json",
    "reference://tmp/x.json",
    "simplecache::http://host/a.csv",
    "filecache::s3://bucket/a.csv",
    "zip://a.csv::memory://log/a.zip",
    "s3://bucket/a.csv::reference",
    "github://user:repo@main/a.csv",
    "nonsense://log/a.csv",
    "S3://bucket/a.csv",
    "://a.csv",
]


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_is_no_plain_one_never_reaches_fsspec(monkeypatch, url):
    called = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", called.append)
    message = "chained URLs" if "::" in url else "the protocol '.*' is not opened: take file, http"
    feature = {"kind": "categorical", "names": ["c"]}
    for opened in (
        lambda: DataConfig(source="table", path=url),
        lambda: CategoricalConfig(**feature, vocabulary=url),
        lambda: CategoricalConfig(**feature, keep=url),
        lambda: open_source(DataConfig.model_construct(source="table", path=url)),
        lambda: kept_ids(url, "c"),
        lambda: Url(url),
    ):
        with pytest.raises(ValueError, match=message):
            opened()
    assert not called


def test_a_name_in_a_listing_chains_no_url(store):
    store.pipe("/log/a::reference.csv", CSV.encode())
    with pytest.raises(ValueError, match=r"memory://log/a::reference\.csv: chained URLs"):
        read("table", "memory://log", ["c"])


def test_in_a_configuration():
    data = DataConfig(source="table", path="s3://bucket/a.csv")
    assert data.path == Url("s3://bucket/a.csv")
    assert DataConfig.model_validate_json(data.model_dump_json()) == data
    assert DataConfig(source="table", path="a.csv").path == Path("a.csv")
    with pytest.raises(ValidationError, match="must be a path or a URL"):
        DataConfig(source="table", path=3)


def test_local_files_do_not_need_fsspec(tmp_path):
    packed("a.csv", tmp_path)
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from recsys_pipelines.sources.table import Table\n"
        f"assert Table({str(tmp_path / 'a.csv')!r}).columns == ('label', 'c')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
