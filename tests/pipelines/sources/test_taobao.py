import gzip

import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.taobao_ad import TaobaoAd
from recsys_pipelines.sources.taobao_behavior import TaobaoBehavior

SAMPLE = (
    "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
    "581738,1494137644,1,430548_1007,1,0\n"
    "449818,1494638778,3,430548_1007,0,1\n"
    "7,1494650879,4,430539_1007,1,0\n"
)
USERS = (
    "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    "new_user_class_level \n"
    "581738,0,5,2,5,,3,0,3\n"
    "449818,19,3,2,3,2,3,0,\n"
)
ADS = (
    "adgroup_id,cate_id,campaign_id,customer,brand,price\n1,9025,108570,1,NULL,170.0\n3,9025,1,1,95471,4.5\n"
)


def folder(path, sample=SAMPLE, users=USERS, ads=ADS):
    (path / "raw_sample.csv").write_text(sample)
    (path / "user_profile.csv").write_text(users)
    (path / "ad_feature.csv").write_text(ads)
    return path


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_joined(tmp_path):
    source = open_source(DataConfig(source="taobao_ad", path=folder(tmp_path), label={"column": "clk"}))
    assert source.columns == TaobaoAd.columns
    table, bad = read(
        source, ["clk", "user", "pvalue_level", "new_user_class_level", "brand", "price", "pid"]
    )
    assert table.to_pydict() == {
        "clk": ["0", "1", "0"],
        "user": ["581738", "449818", "7"],
        "pvalue_level": [None, "2", None],
        "new_user_class_level": ["3", None, None],
        "brand": [None, "95471", None],
        "price": ["170.0", "4.5", None],
        "pid": ["430548_1007", "430548_1007", "430539_1007"],
    }
    assert bad.count == 0


def test_a_file_on_its_own(tmp_path):
    path = tmp_path / "behavior_log.csv.gz"
    text = (
        "user,time_stamp,btag,cate,brand\n558157,1493741625,pv,6250,91286\n558157,1493741626,buy,6250,NULL\n"
    )
    path.write_bytes(gzip.compress(text.encode()))
    source = TaobaoAd(path)
    assert source.columns == ("user", "time_stamp", "btag", "cate", "brand")
    assert read(source, ["btag", "brand"])[0].to_pydict() == {"btag": ["pv", "buy"], "brand": ["91286", None]}
    assert TaobaoAd(folder(tmp_path) / "user_profile.csv").columns[-1] == "new_user_class_level"


def test_unlabelled(tmp_path):
    unlabelled = "".join(line.rsplit(",", 2)[0] + "\n" for line in SAMPLE.splitlines())
    source = TaobaoAd(folder(tmp_path, sample=unlabelled), labelled=False)
    assert read(source, ["user", "age_level"])[0].num_rows == 3
    with pytest.raises(SourceError, match=r"raw_sample\.csv: there is no column 'nonclk'"):
        TaobaoAd(tmp_path)


def test_bad_lines(tmp_path):
    source = TaobaoAd(folder(tmp_path, sample=SAMPLE + "1,2,3\n", ads=ADS + "1,2,3,4,5,6\n,2,3,4,5,6\n"))
    table, bad = read(source, ["clk", "brand"])
    assert table.num_rows == 3
    assert sorted((e.file.rsplit("/")[-1], e.line, e.reason) for e in bad.examples) == [
        ("ad_feature.csv", 4, "repeated key: the first row of it is used"),
        ("ad_feature.csv", 5, "no key"),
        ("raw_sample.csv", 5, "3 columns instead of 6"),
    ]


def test_behaviors(tmp_path):
    path = tmp_path / "UserBehavior.csv"
    path.write_text("1,2268318,2520377,pv,1511544070\n1,2333346,2520771,buy,-1\n1,2,3,look,4\n1,2,3,,4\n")
    source = open_source(DataConfig(source="taobao_behavior", path=path))
    assert source.columns == TaobaoBehavior.columns
    table, bad = read(source, ["buy", "pv", "item_id", "timestamp"])
    assert table.to_pydict() == {
        "buy": ["0", "1", None],
        "pv": ["1", "0", None],
        "item_id": ["2268318", "2333346", "2"],
        "timestamp": ["1511544070", "-1", "4"],
    }
    assert [(e.line, e.field, e.value, e.reason) for e in bad.examples] == [
        (3, "behavior", "look", "not pv, cart, fav or buy")
    ]
    # An unknown behaviour that nobody asked for costs no row.
    assert read(source, ["user_id", "behavior"])[0]["behavior"].to_pylist() == ["pv", "buy", "look", None]
