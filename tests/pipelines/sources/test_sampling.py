"""A sample of a source: some parts of it, spread over files and within them."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import columnar
from recsys_pipelines.sources.base import spread
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.recbole import RecBole
from recsys_pipelines.sources.table import Table

ROWS = 1000


def numbers(source, column="x"):
    return [
        int(x) for chunk in source.chunks([column], Quarantine()) for x in chunk.table[column].to_pylist()
    ]


@pytest.fixture
def table():
    return pa.table({"x": np.arange(ROWS), "y": np.arange(ROWS) % 7})


def test_spread_reaches_both_ends():
    assert spread(3, 8) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(5, 1) == [0]


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_groups_of_rows_are_chosen_evenly(tmp_path, table, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=10)
    else:
        feather.write_feather(table, str(path), chunksize=10)
    source = Table(path)
    sample = source.sampled(4)
    rows = numbers(sample)
    assert not sample.is_whole
    assert len(rows) == 40
    assert (rows[0], rows[-1]) == (0, ROWS - 1)
    assert rows == sorted(rows)
    assert numbers(source) == list(range(ROWS)), "the source itself is as it was"
    assert source.files[0].rows_by_metadata() == (ROWS if kind == "parquet" else None)


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_single_group_gives_its_beginning(tmp_path, table, kind, monkeypatch):
    monkeypatch.setattr(columnar, "ROWS", 50)
    path = tmp_path / f"a.{kind}"
    pq.write_table(table, path) if kind == "parquet" else feather.write_feather(table, str(path))
    sample = Table(path).sampled(4)
    assert numbers(sample) == list(range(200))
    assert not sample.is_whole
    whole = Table(path).sampled(20)
    assert numbers(whole) == list(range(ROWS))
    assert whole.is_whole


def lines(folder, ending=""):
    text = "x,y\n" + "".join(f"{number:06d},1\n" for number in range(ROWS))
    path = folder / f"a.csv{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending else text.encode())
    return path


def test_blocks_of_text_are_chosen_evenly(tmp_path, monkeypatch):
    path = lines(tmp_path)
    source = Table(path)
    assert isinstance(source.files[0], DelimitedFile)
    source.files[0]._block_size = 100
    sample = source.sampled(4)
    rows = numbers(sample)
    assert 30 <= len(rows) <= 50
    assert (rows[0], rows[-1]) == (0, ROWS - 1)
    assert not sample.is_whole
    assert numbers(source) == list(range(ROWS))
    source.files[0]._block_size = 10_000
    assert numbers(source.sampled(4)) == list(range(ROWS))
    assert source.sampled(4).is_whole


def test_of_compressed_text_the_first_blocks_are_read(tmp_path, monkeypatch):
    source = Table(lines(tmp_path, ".gz"))
    source.files[0]._block_size = 100
    sample = source.sampled(3)
    rows = numbers(sample)
    assert rows == list(range(len(rows)))
    assert 20 <= len(rows) <= 40
    assert not sample.is_whole
    source.files[0]._block_size = 10_000
    sample = source.sampled(3)
    assert numbers(sample) == list(range(ROWS))
    assert sample.is_whole


def test_files_of_a_folder_are_chosen_evenly(tmp_path):
    for day in range(20):
        (tmp_path / f"dt={day:02d}").mkdir()
        pq.write_table(pa.table({"x": [day]}), tmp_path / f"dt={day:02d}" / "a.parquet")
    sample = Table(tmp_path).sampled(4)
    assert numbers(sample, "dt") == [0, 6, 13, 19]
    assert not sample.is_whole
    assert Table(tmp_path).sampled(20).is_whole


def test_attributes_are_joined_to_a_sample(tmp_path):
    (tmp_path / "a.inter").write_text(
        "user_id:token\tx:float\n" + "".join(f"u{k % 3}\t{k}\n" for k in range(ROWS))
    )
    (tmp_path / "a.user").write_text("user_id:token\tage:token\nu0\t20\nu1\t21\nu2\t22\n")
    source = RecBole(tmp_path)
    source.files[0]._file._block_size = 500
    sample = source.sampled(3)
    (first, *_), rows = sample.chunks(["x", "age"], Quarantine()), numbers(sample)
    assert first.table["age"].to_pylist()[:3] == ["20", "21", "22"]
    assert not sample.is_whole
    assert rows[-1] == ROWS - 1
