import gzip

import pyarrow as pa
import pytest

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError
from recsys_pipelines.sources.avazu import FEATURES, Avazu

HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
ROW = (
    "1000009418151094273,0,{hour},1005,0,1fbe01fe,f3845767,28905ebd,ecad2386,7801e8d9,07d7df22,a99f214a,"
    "ddd2926e,44956a24,1,2,15706,320,50,1722,0,35,-1,79"
)


def write(path, hours):
    path.write_text("\n".join([HEADER, *(ROW.format(hour=hour) for hour in hours)]) + "\n")
    return path


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_published_columns(tmp_path):
    source = Avazu(write(tmp_path / "train.csv", ["14102100"]))
    assert source.columns[:24] == tuple(HEADER.split(","))
    table, bad = read(source, ["click", "device_ip", "C20", "hour"])
    assert table.to_pylist() == [{"click": "0", "device_ip": "ddd2926e", "C20": "-1", "hour": "14102100"}]
    assert bad.count == 0


def test_hour_gives_three_more_columns(tmp_path):
    # 21 October 2014 was a Tuesday, the 25th a Saturday.
    source = Avazu(write(tmp_path / "train.csv", ["14102100", "14102523", "14102613", ""]))
    table, bad = read(source, ["weekend", "hour_of_day", "C1", "weekday"])
    assert table.column_names == ["weekend", "hour_of_day", "C1", "weekday"]
    assert table["hour_of_day"].to_pylist() == ["0", "23", "13", None]
    assert table["weekday"].to_pylist() == ["1", "5", "6", None]
    assert table["weekend"].to_pylist() == ["0", "1", "1", None]
    assert bad.count == 0


def test_an_hour_that_is_none(tmp_path):
    source = Avazu(write(tmp_path / "train.csv", ["14102100", "14102199", "x", "1410210", "14102101"]))
    table, bad = read(source, ["hour_of_day"])
    assert table["hour_of_day"].to_pylist() == ["0", "1"]
    assert [(e.line, e.field, e.value) for e in bad.examples] == [
        (3, "hour", "14102199"),
        (4, "hour", "x"),
        (5, "hour", "1410210"),
    ]


def test_unlabelled(tmp_path):
    path = tmp_path / "test.csv.gz"
    text = write(tmp_path / "train.csv", ["14102100"]).read_text().splitlines()
    without = "\n".join(",".join(f for i, f in enumerate(line.split(",")) if i != 1) for line in text)
    path.write_bytes(gzip.compress(without.encode()))
    source = Avazu(path, labelled=False)
    assert read(source, FEATURES)[0].num_rows == 1
    with pytest.raises(SourceError, match=r"test\.csv\.gz.*no column 'click'"):
        Avazu(path)


def test_unknown_column_names_the_nearest(tmp_path):
    source = Avazu(write(tmp_path / "train.csv", ["14102100"]))
    with pytest.raises(SourceError, match=r"'device_ipp'.*did you mean 'device_ip'"):
        source.chunks(["device_ipp"], Quarantine())
