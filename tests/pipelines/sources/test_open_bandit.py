import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.open_bandit import OpenBandit

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user-item_affinity_0,user-item_affinity_1\n"
LOG = HEADER + (
    "0,2019-11-24 00:00:17.004101+00:00,79,2,0,0.0125,81ce123cbb5bd8ce818f60fb3586bba5,0.0,1.0\n"
    "1,2019-11-24 00:00:19+00:00,14,3,1,1e-06,,0.0,\n"
)
ITEMS = ",item_id,item_feature_0,item_feature_1\n0,14,-0.677183,bd8f314b73c5a1f6b9ab8e5cb2e6e3b8\n"


def write(path, log=LOG, items=ITEMS):
    (path / "all.csv").write_text(log)
    if items is not None:
        (path / "item_context.csv").write_text(items)
    return path / "all.csv"


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_joined(tmp_path):
    source = open_source(DataConfig(source="open_bandit", path=write(tmp_path)))
    assert source.columns == (*HEADER.strip().split(",")[1:], "item_feature_0", "item_feature_1")
    table, bad = read(source, ["timestamp", "item_feature_0", "user-item_affinity_1", "propensity_score"])
    assert table.to_pydict() == {
        "timestamp": [
            datetime.datetime(2019, 11, 24, 0, 0, 17, 4101),
            datetime.datetime(2019, 11, 24, 0, 0, 19),
        ],
        "item_feature_0": [None, "-0.677183"],
        "user-item_affinity_1": ["1.0", None],
        "propensity_score": ["0.0125", "1e-06"],
    }
    assert bad.count == 0


def test_a_time_that_is_none(tmp_path):
    lines = "".join(f"2,{time},1,1,0,1,a,0,0\n" for time in ("2019-11-24", "2019-13-24 00:00:17+00:00", ""))
    table, bad = read(OpenBandit(write(tmp_path, LOG + lines)), ["timestamp"])
    assert table["timestamp"].null_count == 1
    assert [(e.line, e.field, e.reason[:10]) for e in bad.examples] == [
        (4, "timestamp", "not a time"),
        (5, "timestamp", "not a time"),
    ]


def test_parquet(tmp_path):
    now = datetime.datetime(2020, 1, 1)
    columns = {"timestamp": [now], "item_id": [3], "position": [1], "click": [0], "propensity_score": [0.5]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    table, _ = read(OpenBandit(tmp_path / "log.parquet"), ["timestamp", "item_id"])
    assert table.to_pylist() == [{"timestamp": now, "item_id": 3}]


@pytest.mark.parametrize("source", ["open_bandit", "table"])
def test_any_name_can_be_a_feature(tmp_path, source):
    """Names with "-" as published, and with ".", which is read as "_"."""
    header = HEADER.replace("user_feature_0", "user.feature.0")
    day = [
        f"{k},2019-11-24 00:{k:02}:17.5+00:00,{k % 9},{k % 3},{k % 2},0.1,u{k % 5},{k},0\n" for k in range(60)
    ]
    path = write(tmp_path, header + "".join(day), None)
    features = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [
            {"kind": "categorical", "names": ["user_feature_0", "item_id"]},
            {"kind": "numeric", "names": ["user-item_affinity_0"]},
        ]
    )
    time = {"time": "timestamp", "split": {"by": "time"}} if source == "open_bandit" else {}
    data = DataConfig(source=source, path=path, label={"column": "click"}, **time)
    manifest = prepare(data, features, tmp_path / "out").manifest
    assert manifest.rows_out == 60
    assert set(manifest.columns) == {"user_feature_0", "item_id", "user-item_affinity_0"}


def test_what_stands_beside_the_file_counts(tmp_path):
    path = write(tmp_path, HEADER + "0,2019-11-24 00:00:17+00:00,14,2,0,0.0125,a,0,1\n" * 60)
    data = DataConfig(source="open_bandit", path=path, label={"column": "click"})
    features = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [{"kind": "categorical", "names": ["item_feature_1"]}]
    )
    first = prepare(data, features, tmp_path / "out").path
    assert prepare(data, features, tmp_path / "out").path == first
    write(tmp_path, path.read_text(), ITEMS + "1,79,2,b\n")
    assert prepare(data, features, tmp_path / "out").path != first


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(SourceError, match=r"all\.csv: there is no column 'propensity_score'"):
        OpenBandit(write(tmp_path, LOG.replace("propensity_score", "pscore")))
    with pytest.raises(
        SourceError, match=r"two columns are called 'position': rename that of .*item_context\.csv"
    ):
        OpenBandit(write(tmp_path, items="item_id,position\n1,2\n")).parts(["position"])
    (tmp_path / "all.txt").write_text(LOG)
    with pytest.raises(SourceError, match=r"all\.txt.*must be one of \.parquet"):
        OpenBandit(tmp_path / "all.txt")
